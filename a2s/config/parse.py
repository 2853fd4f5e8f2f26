"""From YAML and flags to one frozen configuration: flag beats file beats default."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tyro
import yaml
from pydantic import BaseModel, ValidationError, create_model

from a2s.config.registry import COMMANDS
from a2s.errors import ConfigError


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` when a known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def parse(command: str, arguments: list[str]) -> Any:
    """Configuration of one command.

    Raises:
        ConfigError: the file is not readable, or a key, a flag, or a value is wrong.
        SystemExit: `--help` (0), or a wrong flag on a rank that leaves complaining to rank 0 (2).
    """
    model = COMMANDS[command].settings_class()
    file, flags = _take_config_flag(command, arguments)
    sections = _read(file) if file else {}
    values = dict(sections.get(command, {}))
    if command in ("run", "ablate"):
        # The sections of the single commands hold where they are called as well.
        for name in sections.keys() & model.model_fields.keys():
            values[name] = {**values.get(name, {}), **sections[name]}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                model,
                args=flags,
                default=_defaults(model, values, path=command, file=file),
                prog=f"a2s {command}",
                description=f"{model.__doc__}\n\n--config FILE reads the section `{command}` of a "
                "YAML file first; flags win over it.",
            )
    except SystemExit as stop:
        # Under a launcher every rank parses the same flags; one of them complains.
        if not stop.code or os.environ.get("RANK", "0") != "0":
            raise
        cause = _cause(stop)
        raise ConfigError(
            _problems(cause, _section(model, cause.title, command) or command, None)
            if cause
            else f"{command}: {_one_line(complaint.getvalue())}; see a2s {command} --help"
        ) from None


def _cause(stop: BaseException) -> ValidationError | None:
    """The failed validation for which tyro has given up, if it was one."""
    error: BaseException | None = stop
    while error is not None and not isinstance(error, ValidationError):
        error = error.__context__
    return error


def _section(model: type[BaseModel], title: str, path: str) -> str | None:
    """Dotted name of the section whose model has this title."""
    if model.__name__ == title:
        return path
    for name, field in model.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            found = _section(nested, title, f"{path}.{name}")
            if found:
                return found
    return None


def _one_line(box: str) -> str:
    """What tyro's box says, without its frame and its pointer to the help."""
    text = re.sub(r"^[╭╰].*$|[│]", "", re.sub(r"\x1b\[[0-9;]*m", "", box), flags=re.M)
    parts = [" ".join(part.split()) for part in re.split(r"─{3,}", text)]
    return ". ".join(
        part.rstrip(".") for part in parts if part and not part.startswith("For full helptext")
    )


def _take_config_flag(command: str, arguments: list[str]) -> tuple[Path | None, list[str]]:
    flags: list[str] = []
    file: Path | None = None
    pending = iter(arguments)
    for argument in pending:
        if argument.split("=")[0] != "--config":
            flags.append(argument)
            continue
        _, equals, value = argument.partition("=")
        value = value if equals else next(pending, "")
        if not value:
            raise ConfigError(f"{command}: --config needs a file")
        file = Path(value)
    return file, flags


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"config: {file} does not exist") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"config: {file} cannot be read as YAML ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"config: {file} must hold one section per command")
    for name, section in content.items():
        if name not in COMMANDS:
            raise ConfigError(
                f"config: {name} is not a command{nearest(str(name), COMMANDS)} ({file})"
            )
        if not isinstance(section, dict):
            raise ConfigError(f"config: section {name} must hold `key: value` lines ({file})")
    return content


def _defaults(
    model: type[BaseModel], values: dict[str, Any], *, path: str, file: Path | None
) -> BaseModel:
    """An instance with the file's values; what is required and not given is left to the flags."""
    fields = model.model_fields
    for key in values:
        if key not in fields:
            hint = nearest_path(path, key, fields)
            raise ConfigError(f"config: {path}.{key} is not a setting{hint} ({file})")
    filled: dict[str, Any] = {}
    for name, field in fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            section = values.get(name, {})
            if not isinstance(section, dict):
                raise ConfigError(f"config: {path}.{name} must hold `key: value` lines ({file})")
            filled[name] = _defaults(nested, section, path=f"{path}.{name}", file=file)
        elif name in values:
            filled[name] = _checked(model, name, values[name], path=path, file=file)
        else:
            filled[name] = tyro.MISSING if field.is_required() else field.default
    return model.model_construct(**filled)


def _checked(model: type[BaseModel], name: str, value: Any, *, path: str, file: Path | None) -> Any:
    """One value of the file, validated and converted as its field demands."""
    field = model.model_fields[name]
    one = create_model("One", **{name: (field.annotation, field)})  # type: ignore[call-overload]
    try:
        return getattr(one(**{name: value}), name)
    except ValidationError as error:
        raise ConfigError(_problems(error, path, file)) from None


def nearest_path(path: str, key: str, known: Iterable[str]) -> str:
    """`; did you mean stage2.lr?` when a known key is close."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5) or [
        # Abbreviations: `learning_rate` for `lr`.
        name
        for name in known
        if name == "".join(part[0] for part in key.split("_") if part)
    ]
    return f"; did you mean {path}.{close[0]}?" if close else ""


def _problems(error: ValidationError, path: str, file: Path | None) -> str:
    """All problems at once, one short clause each, with the dotted key."""
    clauses = []
    for problem in error.errors():
        key = ".".join([path, *map(str, problem["loc"])])
        clauses.append(f"{key}: {problem['msg'].removeprefix('Value error, ')}")
    return "config: " + "; ".join(dict.fromkeys(clauses)) + (f" ({file})" if file else "")
