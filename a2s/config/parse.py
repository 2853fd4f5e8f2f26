"""Parse YAML and flags into one frozen configuration: flags override the file, it the defaults."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import tyro
from pydantic import BaseModel, ValidationError, create_model
from tyro.conf import Positional

from a2s.config.help import short_form
from a2s.config.registry import COMMANDS
from a2s.errors import ConfigError
from a2s.storage.files import read_text
from a2s.storage.objects.mirror import fetched
from a2s.storage.objects.urls import is_url
from a2s.storage.parsing import parse_yaml

PRESETS = Path(__file__).parent / "presets"
"""Files that come with a2s: `--config paper` reads paper.yaml."""
WRONG_FLAGS = 2
"""Exit code of tyro for arguments that it refuses."""


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` when a known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def parse(command: str, arguments: list[str]) -> Any:
    """Return the configuration of one command.

    Raises:
        ConfigError: the file is not readable, or a key, a flag, or a value is wrong.
        SystemExit: 0 after `--help` or `--help-all`, 2 after a wrong flag on another rank than 0.
    """
    for text in arguments:
        _refuse_other_bytes(command, text)
    with contextlib.suppress(FileNotFoundError):
        # Relative paths are recorded as absolute ones.
        _refuse_other_bytes(command, os.getcwd())
    model = shown = COMMANDS[command].settings_class()
    file, flags = _take_config_flag(command, _with_dashes(arguments))
    if "--help-all" in flags:
        flags = ["--help"]
    elif not {"-h", "--help"}.isdisjoint(flags):
        shown = short_form(model)
    sections = _read(file) if file else {}
    values = dict(sections.get(command, {}))
    # `run` and `ablate` have a section for each command that they call; it holds there as well.
    for name in sections.keys() & model.model_fields.keys():
        values[name] = _merged(values.get(name, {}), sections[name])
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                shown,
                args=flags,
                default=_defaults(shown, values, path=command, file=file),
                prog=f"a2s {command}",
                description=f"{model.__doc__}\n"
                f"--config FILE reads the section `{command}` of a YAML file; flags override it. "
                "--quiet prints errors only; --takeover: see a2s --help.",
            )
    except SystemExit as stop:
        if not stop.code and shown is not model:
            print(f"a2s {command} --help-all shows every setting.")
        # Under a launcher every rank parses the same flags; one of them complains. A signal may
        # have come, too, whose handler leaves by its own exit code.
        if stop.code != WRONG_FLAGS or os.environ.get("RANK", "0") != "0":
            raise
        cause = _cause(stop)
        raise ConfigError(
            problems(cause, _section(model, cause.title, command) or command, None)
            if cause
            else f"{command}: {_unknown_flags(model, flags) or _one_line(complaint.getvalue())}; "
            f"see a2s {command} --help"
        ) from None


def _refuse_other_bytes(command: str, text: str) -> None:
    """Refuse a path that is not UTF-8, since settings are recorded as text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(text).decode("utf-8", "backslashreplace")
        raise ConfigError(
            f"{command}: {shown} is not UTF-8; rename it, or give the folder above it (names of "
            "images below a folder may be of any bytes)"
        ) from None


def _merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested settings of two sections of a file; those of `over` win."""
    both = {key: value for key, value in over.items() if isinstance(value, dict)}
    return {
        **values,
        **over,
        **{
            key: _merged(values[key], value)
            for key, value in both.items()
            if isinstance(values.get(key), dict)
        },
    }


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


def _unknown_flags(model: type[BaseModel], arguments: list[str]) -> str:
    """`no flag --lrr; did you mean --lr?` of every flag that is none; empty if there is none."""
    known = set(flags_of(model))
    given = [argument.split("=")[0] for argument in arguments if argument[:2] == "--"]
    unknown = [flag for flag in given if flag.replace("_", "-") not in known]
    return "; ".join(f"no flag {flag}{_nearest_flag(flag, known)}" for flag in unknown)


def flags_of(model: type[BaseModel], prefix: str = "--") -> Iterator[str]:
    """Long flags of a command's settings and of their nested groups, as people write them."""
    for name, field in model.model_fields.items():
        nested = field.annotation
        # A name of its own for the flag, where the field's is taken.
        name = next((mark.name for mark in field.metadata if getattr(mark, "name", None)), name)
        flag = f"{prefix}{name}".replace("_", "-")
        if isinstance(nested, type) and issubclass(nested, BaseModel):
            yield from flags_of(nested, f"{flag}.")
        elif Positional[int].__metadata__[0] not in field.metadata:  # type: ignore[attr-defined]
            yield flag
            if nested is bool:
                yield f"{prefix}no-{flag.removeprefix(prefix)}"


def _nearest_flag(flag: str, known: set[str]) -> str:
    """`; did you mean X?`: the same name in a nested group, else a name that is spelled alike."""
    nested = sorted(other for other in known if other.endswith(f".{flag.removeprefix('--')}"))
    return f"; did you mean {nested[0]}?" if nested else nearest(flag, sorted(known))


def _with_dashes(arguments: list[str]) -> list[str]:
    """Join `--out -` and `-o -` (standard output) to one argument each, as the parser wants it."""
    joined: list[str] = []
    for argument in arguments:
        if argument == "-" and joined[-1:] in (["--out"], ["-o"]):
            joined[-1] = "--out=-"
        else:
            joined.append(argument)
    return joined


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
        file = fetched(value) if is_url(value) else _preset(Path(value))
    return file, flags


def _preset(file: Path) -> Path:
    """The file itself, or the one that comes with a2s, where that is what a bare name means."""
    preset = PRESETS / f"{file}.yaml"
    return preset if len(file.parts) == 1 and not file.exists() and preset.is_file() else file


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        content = parse_yaml(read_text(file)) or {}
    except FileNotFoundError:
        presets = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise ConfigError(
            f"config: {file} does not exist; give a file, or the name of a preset ({presets})"
        ) from None
    except OSError as error:
        raise ConfigError(f"config: {file} cannot be read ({error.strerror})") from None
    except ValueError as error:
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
            hint = nearest_path(path, key, model)
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
        raise ConfigError(problems(error, path, file)) from None


def nearest_path(path: str, key: str, model: type[BaseModel]) -> str:
    """`; did you mean stage2.lr?` when a setting of the model has nearly this name."""
    known = list(model.model_fields)
    close = (
        # The same name in a nested group: `boundary` for `parity.boundary`.
        [
            f"{name}.{key}"
            for name, field in model.model_fields.items()
            if key in getattr(field.annotation, "model_fields", {})
        ]
        or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        # Abbreviations: `learning_rate` for `lr`.
        or [name for name in known if name == "".join(word[:1] for word in key.split("_"))]
    )
    return f"; did you mean {path}.{close[0]}?" if close else ""


def problems(error: ValidationError, path: str, file: Path | None) -> str:
    """All problems at once, one short clause each, with the dotted key."""
    clauses = []
    for problem in error.errors():
        key = ".".join([path, *map(str, problem["loc"])])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "too_short" and problem["ctx"]["actual_length"] == 0:
            text = "give at least one"
        clauses.append(f"{key}: {text}")
    return "config: " + "; ".join(dict.fromkeys(clauses)) + (f" ({file})" if file else "")
