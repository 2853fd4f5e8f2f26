"""Reads that nothing but a regular file can answer, atomic writes, JSON and JSON lines."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from a2s.errors import StorageError
from a2s.storage.objects import cache, written_here
from a2s.storage.objects.urls import here
from a2s.storage.parsing import json_line, parse_json

_umask_lock = threading.Lock()
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp", re.DOTALL)


class NotAFile(StorageError, OSError):
    """A path leads to a folder, named pipe, socket or device, where a file is wanted."""

    def __init__(self, path: object) -> None:
        super().__init__(errno.EINVAL, "not a regular file", os.fsdecode(path))  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[type[NotAFile], tuple[str]]:
        return NotAFile, (self.filename,)

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def open_file(path: str | bytes | Path) -> io.BufferedReader:
    """Open a file to read it, without waiting for whoever may write to a named pipe.

    A path that stands for an object of a store (`objects.urls`), or its URL, is fetched first.

    Raises:
        NotAFile: it is no regular file.
        OSError: it cannot be opened.
        StorageError: the store cannot be read.
    """
    if here(path) is not None:
        path = cache.bring(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise NotAFile(path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(path)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


facts_of = cache.stat


def is_there(path: Path) -> bool:
    """Whether there is a file with this path, or an object of a store that it stands for."""
    return size_of(path) >= 0


def size_of(path: Path) -> int:
    """Size of a file in bytes, also of one that is still in a store; -1 if there is none."""
    try:
        facts = facts_of(path)
    except OSError:
        return -1
    # A named pipe in place of a file is no file.
    is_other = path.exists() and not path.is_file()
    return -1 if is_other else facts.size


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Raises:
        OSError: as `open_file`, or reading fails.
    """
    with open_file(path) as file:
        return file.read()


def read_text(path: Path, *, errors: str = "strict") -> str:
    """Read a file as UTF-8.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: it holds other bytes.
    """
    return read_bytes(path).decode("utf-8", errors)


def fsync_dir(path: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of writing a file name it, not its temporary file, and not nothing.

    A full disk is reported for a descriptor, without a name.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        named = _TEMPORARY.fullmatch(os.path.basename(os.fsdecode(error.filename or "")))
        if is_full or (named and named[1] == path.name[:50]):
            error.filename, error.filename2 = str(path), None
            error.strerror = os.strerror(error.errno or errno.EIO)
        raise


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success fsync it and rename it to `path`."""
    if written_here.is_noted():
        # A store has no folders, so on another machine of a job none is there yet.
        path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        descriptor, temporary = _locked_temporary(path)
    try:
        with naming(path):
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)
    fsync_dir(path.parent)
    written_here.note(path)


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """Make a temporary file, locked while its writer lives."""
    while True:
        # Truncate the name: with prefix and suffix it must not exceed the file system's 255 bytes.
        descriptor, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp"
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Somebody took it for one that a killed writer has left, and deletes it.
            os.close(descriptor)
            continue
        except OSError:  # a file system without locks
            return descriptor, Path(name)
        if os.path.exists(name):
            return descriptor, Path(name)
        os.close(descriptor)


def remove_abandoned(paths: Iterable[Path]) -> None:
    """Delete what killed writers of these files left; files that somebody writes now stay.

    For files in folders that no command claims.
    """
    names: dict[Path, set[str]] = {}
    for path in paths:
        names.setdefault(path.parent, set()).add(path.name[:50])
    for folder, wanted in names.items():
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                found = _TEMPORARY.fullmatch(entry.name)
                if found and found[1] in wanted and _is_abandoned(entry.path):
                    os.unlink(entry.path)


def _is_abandoned(path: str) -> bool:
    """Whether the writer of a temporary file has ended; where there are no locks, it never has."""
    with contextlib.suppress(OSError), open_file(path) as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    return False


def remove_temporary(folder: Path) -> None:
    """Delete what killed writers of `atomic_path` left below a folder; nobody may be writing there.

    It recognises the names that `atomic_path` gives; all other files stay.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            if _TEMPORARY.fullmatch(name):
                Path(parent, name).unlink(missing_ok=True)


def remove_temporary_of(paths: Iterable[Path]) -> None:
    """Delete what killed writers of these files left; nobody may be writing them."""
    for path in paths:
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            if _TEMPORARY.fullmatch(left.name):
                left.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically; keys are sorted, so equal values give equal bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    atomic_write(path, json_line(text) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        OSError: as `read_bytes`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_bytes(path))


def append_jsonl(path: Path, value: Mapping[str, object]) -> None:
    """Append one line in one write, so that a crash truncates at most the last line.

    After a truncated line, start a new line.
    """
    line = json_line(json.dumps(value, ensure_ascii=False)) + "\n"
    with naming(path), path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode())


def _umask() -> int:
    # The umask can only be read by setting it, so concurrent calls would read each other's 0.
    with _umask_lock:
        mask = os.umask(0)
        os.umask(mask)
    return mask
