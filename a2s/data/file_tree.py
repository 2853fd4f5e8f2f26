"""The files below a folder, and the lines of a list of files."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from a2s.errors import DataError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank.

    Text is UTF-8, or as its byte order mark says; bytes that are no text become surrogate escapes,
    as in Python's file names.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(_UTF_16):
        text = data.decode("utf-16", "replace")
    else:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip()]


def walk(root: Path, *, leave_out: Sequence[Path] = ()) -> Iterator[tuple[str, str]]:
    """Yield (path, relative path) of all files below a folder, except hidden ones.

    Follows symbolic links, but not into a cycle.

    Raises:
        DataError: a folder cannot be listed.
    """
    excluded = {_identity(str(folder)) for folder in leave_out if folder.exists()}
    pending = [(str(root), "", frozenset([_identity(str(root))]))]
    while pending:
        folder, prefix, parents = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_dir(entry):
                yield entry.path, prefix + entry.name
                continue
            identity = _identity(entry.path)
            if identity not in parents and identity not in excluded:
                pending.append((entry.path, f"{prefix}{entry.name}/", parents | {identity}))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself. If its name is that of an image, reading it will report the failure.
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
