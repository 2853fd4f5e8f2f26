"""Output folders: one writer at a time, resolved settings, environment record, atomic files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from a2s.errors import A2SError, ConfigError
from a2s.storage import lock
from a2s.storage.environment import environment
from a2s.storage.files import (
    NotAFile,
    append_jsonl,
    atomic_write,
    read_json,
    read_text,
    remove_temporary_of,
    write_json,
)
from a2s.storage.hashing import digest
from a2s.storage.objects.urls import shown
from a2s.storage.parsing import parse_yaml

_STOPPED = "stopped.json"
"""Why and when the last call ended early, for `a2s status`; the next call deletes it."""
RESOLVED = "resolved.json"
"""What the first call of a job found out, such as a batch size, and later calls keep."""
_RECORDS = {
    *(".lock", ".lock-setup", ".lock-shards", "config.yaml", "environment.json"),
    *(_STOPPED, ".staging"),
}
"""Files that `claim` writes, and the folder of tars that are unpacked before work begins."""
_SMALL = (
    *(".lock", "config.yaml", "environment.json", "resolved.json", _STOPPED),
    *("unlabelled.jsonl", "failures.jsonl", "left_out.jsonl"),
)
_RESULT = re.compile(
    r"shard-\d{6}\.(tar|parquet|json)|(work|images)\.parquet|(pr|f)_curve\.svg"
    r"|(environment|resolved|stopped|work|scores|missing|curves)\.json"
    r"|(metrics|failures)\.jsonl|sheet\.png|table\.md|written\.txt"
)
"""Names under which commands write into their folder; they replace what is there."""


@dataclass(frozen=True)
class RunDir:
    """A claimed output folder."""

    path: Path
    settings_hash: str
    """SHA-256 of the identity settings and the inputs."""
    shared: bool = False
    """Whether other processes may work on other parts of it at the same time."""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Lock out the other processes that share the folder, to read and rewrite a common file."""
        return _exclusive(self.path, shared=self.shared)

    def log(self, **fields: object) -> None:
        """Append one record to `metrics.jsonl`."""
        plain = {n: shown(one) if isinstance(one, str) else one for n, one in fields.items()}
        record = {"time_unix_sec": round(time.time(), 3), **plain}
        append_jsonl(self.path / "metrics.jsonl", record)

    def resolve_once(
        self, name: str, find_out: Callable[[], Any], *, is_valid: Callable[[Any], bool]
    ) -> Any:
        """Store what the first run resolves, such as a batch size; return it to resumed runs.

        Raises:
            ConfigError: what is stored is damaged, or not valid.
        """
        path = self.path / RESOLVED
        with self.exclusive():
            try:
                known = read_json(path) if path.exists() else {}
                if name not in known:
                    write_json(path, known := {**known, name: find_out()})
                if is_valid(known[name]):
                    return known[name]
            except (ValueError, TypeError, KeyError, NotAFile):
                known = {}
            raise ConfigError(f"{path} is damaged ({name}); use another --out")


def _exclusive(out: Path, *, shared: bool) -> contextlib.AbstractContextManager[None]:
    # A process that locked the whole folder is alone in it.
    return lock.exclusive(out) if shared else contextlib.nullcontext()


def identity(config: BaseModel) -> dict[str, Any]:
    """Settings that decide what a run writes (its identity), as plain values.

    Shape: nested like the configuration; fields marked `identity: False` are left out, and newer
    ones where they have the value `before`, which is what runs did that knew no such field.
    """
    values: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("identity") is False:
            continue
        value = getattr(config, name)
        if isinstance(extra, dict) and "before" in extra and value == extra["before"]:
            continue
        values[name] = identity(value) if isinstance(value, BaseModel) else value
    # Through JSON, so that tuples and paths compare equal to what YAML gives back.
    plain: dict[str, Any] = json.loads(shown(json.dumps(values, default=str)))
    return plain


def settings_of(
    command: str, config: BaseModel, inputs: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Command, settings and inputs that must be the same when a folder is written to again."""
    # In order: metadata of a file of tensors come in any.
    ordered = {name: shown(value) for name, value in sorted((inputs or {}).items())}
    return {"command": command, **identity(config), "inputs": ordered}


def recorded_settings(out: Path) -> dict[str, Any] | None:
    """All recorded settings of a folder; None if it has no config.yaml.

    Raises:
        ConfigError: the file is not what a command of a2s wrote.
    """
    path = out / "config.yaml"
    if not os.path.lexists(path):
        return None
    try:
        values: dict[str, Any] = parse_yaml(read_text(path))["identity"]
        if isinstance(values["command"], str):
            return values
    except (NotAFile, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(
        f"{path} is not a configuration written by a2s; restore it from a copy, or use another "
        "folder"
    )


def recorded(out: Path, *keys: str) -> Any:
    """A recorded setting of a folder, by its nested names; None if it is not recorded."""
    try:
        value = parse_yaml(read_text(out / "config.yaml"))["identity"]
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value


@contextlib.contextmanager
def claim(
    out: Path,
    *,
    command: str,
    config: BaseModel,
    inputs: Mapping[str, str] | None = None,
    parts: Sequence[range] | None = None,
    latest: bool = False,
    waiting: lock.Waiting = contextlib.nullcontext,
) -> Iterator[RunDir]:
    """Lock an output folder for the length of a job, or only the shards numbered in `parts`.

    `inputs` names what the job reads by content (for example the fingerprint of the data).
    `latest`: config.yaml has the settings of the latest call, not those of the first. `waiting` is
    that of `lock.hold`.

    Raises:
        ConfigError: another process holds the folder, it belongs to another command, it was made
            with other settings or inputs, or it holds files of something else that a job's files
            would replace.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{command}: {out} is a file; --out must be a folder") from None
    except PermissionError as error:
        raise ConfigError(f"{command}: cannot create {out} ({error.strerror})") from None
    shared = parts is not None
    with lock.hold(out, command, parts=parts, waiting=waiting) as is_last:
        settings = settings_of(command, config, inputs)
        # Of several processes that start at once, one writes the settings.
        with _exclusive(out, shared=shared):
            compare(out, settings)
            before: set[str] = set()
            if not (out / "config.yaml").exists():
                # Files that are there already are somebody else's.
                before = {path.name for path in out.iterdir()}
                refuse_foreign(command, out)
            if latest or not (out / "config.yaml").exists():
                # `identity` is stored as it was compared, so a later default cannot change it.
                given = json.loads(shown(config.model_dump_json()))
                record = {command: given, "identity": settings}
                text = yaml.safe_dump(record, sort_keys=False)
                file = out / "config.yaml"
                if not file.exists() or read_text(file) != text:
                    atomic_write(file, text)
            (out / _STOPPED).unlink(missing_ok=True)
            # All writers of these files hold this lock.
            remove_temporary_of(out / name for name in _SMALL)
            write_json(out / "environment.json", environment())
        try:
            yield RunDir(out, digest(settings), shared)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            # While other processes share the folder, the job goes on.
            if is_last():
                _record_stop(out, error, before)
            raise


def refuse_foreign(command: str, out: Path) -> None:
    """Of a folder without a job of a2s, check that nothing in it is called like a job's files.

    Raises:
        ConfigError: something is, so that it would be replaced.
    """
    if (out / "config.yaml").exists():
        return
    if names := sorted(path.name for path in out.iterdir() if _RESULT.fullmatch(path.name)):
        more = ", …" if len(names) > 3 else ""
        raise ConfigError(
            f"{command}: {out} holds {', '.join(names[:3])}{more} of something else; use another "
            "--out"
        )


def _record_stop(out: Path, error: BaseException, before: set[str]) -> None:
    """Leave word of what ended the job; of one that has added nothing to `before`, no trace."""
    if isinstance(error, A2SError) and {path.name for path in out.iterdir()} - before <= _RECORDS:
        # A command that failed before it wrote anything must not block the corrected one.
        (out / "config.yaml").unlink(missing_ok=True)
        (out / "environment.json").unlink(missing_ok=True)
        return
    if isinstance(error, A2SError):
        why = str(error)
    elif isinstance(error, KeyboardInterrupt):
        why = "interrupted (Ctrl-C)"
    elif isinstance(error, SystemExit):
        why = _ended_by(error.code)
    else:
        why = f"{type(error).__name__}: {error}".rstrip(": ")
    record = {"time_unix_sec": round(time.time(), 3), "why": shown(" ".join(why.split()))}
    # A full disk is often the very reason.
    with contextlib.suppress(OSError):
        write_json(out / _STOPPED, record)


def _ended_by(code: object) -> str:
    """Words for an exit code; above 128 it is a signal's."""
    with contextlib.suppress(ValueError):
        if isinstance(code, int) and code > 128:
            return f"ended by {signal.Signals(code - 128).name}"
    return f"ended (exit code {code})"


def compare(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder that was made with other settings.

    Raises:
        ConfigError: settings differ, and the message lists them; or they cannot be read.
    """
    old = recorded_settings(out)
    if old is None:
        return
    if old["command"] != settings["command"]:
        raise ConfigError(
            f"{settings['command']}: {out} belongs to a2s {old['command']}; use another --out"
        )
    differing = sorted(_differences(old, settings))
    if differing:
        listed = "; ".join(differing)
        raise ConfigError(
            f"{settings['command']}: {out} was made with other settings ({listed}); "
            "use another --out, or the old settings"
        )


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(
                old.get(key, "unset"), new.get(key, "unset"), f"{prefix}.{key}" if prefix else key
            )
    elif old != new and prefix.startswith("inputs.") and len(str(old)) == len(digest("")):
        yield f"{prefix}: its content is not what it was"
    elif old != new:
        yield f"{prefix}: {old} there, {new} now"
