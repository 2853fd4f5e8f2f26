"""docs/settings-reference.md, made of the settings classes: every flag, its values and default."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from tyro.conf import Positional

from a2s.config.registry import COMMANDS

INTRODUCTION = """\
# Settings reference

Every setting of every command, made from the classes in `a2s/config/` (`make pages`).
[settings.md](settings.md) says how flags, YAML files and presets work together. In a YAML file a
flag's name is written with `_` instead of `-`, and groups such as `encoder.name` are nested.

A dagger (†) marks settings that change no result, or that name inputs, which are compared by
content: when a job is resumed, these may differ. All others must be as they were.

`--config FILE` and `--quiet` work with every command.
"""
_KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "switch"}
_BOUNDS = {
    "minimum": "{} or above",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "multipleOf": "a multiple of {}",
}


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for name, command in COMMANDS.items():
        model = command.settings_class()
        rows = ["| setting | values | default | |", "|---|---|---|---|", *_rows(model)]
        about = " ".join((model.__doc__ or "").split())
        parts.append("\n".join([f"## {name}", "", about, "", *rows, ""]))
    return "\n".join(parts)


def _rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        nested = field.annotation
        # A name of its own for the flag, where the field's is taken.
        shown = next((mark.name for mark in field.metadata if getattr(mark, "name", None)), name)
        shown = shown.replace("_", "-")
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            if name in COMMANDS:
                what = f"[those of `a2s {name}`](#{name}) but for its inputs and `--out`"
                yield f"| `--{prefix}{name}.…` | {what} | | {field.description} |"
            else:
                yield from _rows(nested, f"{prefix}{shown}.")
            continue
        is_positional = Positional[int].__metadata__[0] in field.metadata  # type: ignore[attr-defined]
        flag = shown.upper() if is_positional else f"--{prefix}{shown}"
        extra = field.json_schema_extra
        may_differ = isinstance(extra, dict) and extra.get("identity") is False
        cells = [
            f"`{flag}`" + (" †" if may_differ else ""),
            _values(schema["properties"][name]),
            _default(field.default),
            " ".join((field.description or "").split()),
        ]
        yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _values(schema: dict[str, Any]) -> str:
    """What a setting may be, in words."""
    if "anyOf" in schema:
        found = [_values(one) for one in schema["anyOf"] if one.get("type") != "null"]
        return ", or ".join(dict.fromkeys(found))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema["type"] == "array":
        if "prefixItems" in schema:
            items = [_values(one) for one in schema["prefixItems"]]
            return "; ".join(items) if len({*items}) > 1 else f"{len(items)} times: {items[0]}"
        return f"any number of: {_values(schema['items'])}"
    kind = "path" if schema.get("format") == "path" else _KINDS[schema["type"]]
    bounds = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    return " ".join([kind + ("," if bounds else ""), ", ".join(bounds)]).strip()


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`" if value else "none"
    return "none" if value is None or value == "none" else f"`{value}`"
