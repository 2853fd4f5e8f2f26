"""Whether the trackers that settings ask for are installed."""

from __future__ import annotations

from collections.abc import Collection

from a2s.errors import ConfigError


def check_installed(trackers: Collection[str], available: Collection[str]) -> None:
    """Refuse a tracker that is not installed; Accelerate would only warn."""
    missing = [name for name in trackers if name not in available]
    if missing:
        raise ConfigError(
            f"tracker: {', '.join(missing)} is not installed; "
            f"`pip install 'a2s[{','.join(missing)}]'`, or leave out --tracker (metrics.jsonl is "
            "always written)"
        )
