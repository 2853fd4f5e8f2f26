"""Names of timm's networks, and whether timm is there; imports neither it nor torch."""

from __future__ import annotations

import importlib.util

from a2s.errors import ConfigError

PREFIX = "timm:"
"""What `--encoder.name` begins with when the rest is timm's name of a network."""
PRETRAINED = "pretrained"
"""Value of `--encoder.weights` for the weights that timm publishes under the network's name."""


def is_timm(name: str) -> bool:
    """Whether an encoder's name means one of timm's networks."""
    return name.startswith(PREFIX)


def require_timm(name: str) -> None:
    """Check that timm is installed if this encoder comes from it.

    Raises:
        ConfigError: it is not.
    """
    if is_timm(name) and importlib.util.find_spec("timm") is None:
        raise ConfigError(f"encoder: {name} needs timm; pip install 'a2s[timm]'")
