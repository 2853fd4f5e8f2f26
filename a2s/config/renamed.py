"""Settings that had another name: what was made under it is understood. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED: dict[str, tuple[str, dict[Any, Any]]] = {
    "ram": ("detector", {True: "ram", False: "conv"}),
}
"""Former name -> name, and value by former value."""


def as_named_now(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a folder was made with, as it would be recorded today.

    Shape: nested like the configuration
    """
    today: dict[str, Any] = {}
    for key, value in identity.items():
        if isinstance(value, Mapping):
            today[key] = as_named_now(value)
        elif key in RENAMED and value in RENAMED[key][1]:
            name, values = RENAMED[key]
            today[name] = values[value]
        else:
            today[key] = value
    return today


def told(key: object, path: str) -> str:
    """`; it is stage2.detector now (…)` for a name that has changed, or nothing."""
    if key not in RENAMED:
        return ""
    name, values = RENAMED[str(key)]
    changes = ", ".join(f"{str(old).lower()} is {new}" for old, new in values.items())
    return f"; it is {path}.{name} now ({changes})"
