"""The short form of a command's settings that `--help` shows; `--help-all` shows all of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, create_model
from tyro.conf import Suppress, arg

from a2s.config.registry import COMMANDS

PARITY = "parity"


def short_form(model: type[BaseModel]) -> type[BaseModel]:
    """Hide the settings for parity, and show each section of another command as one line.

    Only for help: nothing is parsed into this class. A class without either is returned as it is.
    """
    hidden: dict[str, Any] = {}
    lines: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        nested = field.annotation
        if name not in (PARITY, *COMMANDS) or not _is_section(nested):
            continue
        hidden[name] = (Annotated[nested, Suppress], field)
        if name in COMMANDS:
            mark = arg(
                name=f"{name}.SETTING", metavar="VALUE", prefix_name=False, help_behavior_hint=""
            )
            text = f"{field.description} {_count(nested)} settings, see a2s {name} --help."
            lines[name] = (Annotated[str, mark], Field("", description=text))
    if lines:
        about = "Settings of the commands that it calls, such as --stage1.epochs 5."
        sections = create_model("Sections", __doc__=about, **lines)
        hidden["sections"] = (Annotated[sections, arg(name="per-command")], sections())
    if not hidden:
        return model
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **hidden)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _count(model: Any) -> int:
    """Settings of a section that the help of its command shows."""
    nested = [field.annotation for name, field in model.model_fields.items() if name != PARITY]
    return sum(_count(kind) if _is_section(kind) else 1 for kind in nested)
