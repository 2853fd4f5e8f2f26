"""Whether the trackers that settings ask for are installed."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from a2s.errors import ConfigError


def check_installed(trackers: Collection[str], available: Iterable[object]) -> None:
    """Refuse a tracker that is not among those of Accelerate, which would only warn."""
    names = {str(getattr(name, "value", name)) for name in available}
    missing = [name for name in trackers if name not in names]
    if missing:
        raise ConfigError(
            f"tracker: {', '.join(missing)} is not installed; "
            f"`pip install 'a2s[{','.join(missing)}]'`, or leave out --tracker (metrics.jsonl is "
            "always written)"
        )
