"""Files below a folder or in a list of files; folders that overlap with the output folder.

Results among the images would be read as images by the next run, or replace them.
"""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from a2s.data.images import SUFFIXES
from a2s.errors import ConfigError, DataError
from a2s.storage.files import read_bytes
from a2s.storage.objects.mirror import read_files
from a2s.storage.objects.urls import here

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank.

    Text is UTF-8, or as its byte order mark says; bytes that are no text become surrogate escapes,
    as in Python's file names.

    Raises:
        DataError: it cannot be read.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if data.startswith(_UTF_16):
        text = data.decode("utf-16", "replace")
    else:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip()]


def read_entries(path: Path) -> list[str]:
    """Paths of the files that a list names, a line each: absolute or relative to the list, or URLs.

    Raises:
        DataError: as `read_lines`.
        StorageError: a store cannot be read.
    """
    entries = [here(line) or os.path.normpath(path.parent / line) for line in read_lines(path)]
    read_files(entries)
    return entries


def walk(
    root: Path,
    *,
    leave_out: Sequence[Path] = (),
    apart_from: Path | None = None,
    skipped: Counter[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield (path, relative path) of all files below a folder, except hidden ones.

    Follows symbolic links, but not into a cycle. Hidden folders and images are counted in
    `skipped`.

    Raises:
        ConfigError: a link leads to `apart_from`.
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
                if skipped is not None:
                    _count_hidden(entry, skipped)
                continue
            if not _is_dir(entry):
                yield entry.path, prefix + entry.name
                continue
            identity = _identity(entry.path)
            if apart_from is not None and identity == _identity(str(apart_from)):
                _refuse(entry.path, apart_from)
            if identity not in parents and identity not in excluded:
                pending.append((entry.path, f"{prefix}{entry.name}/", parents | {identity}))


def _count_hidden(entry: os.DirEntry[str], skipped: Counter[str]) -> None:
    if _is_dir(entry):
        skipped["hidden folders"] += 1
    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
        skipped["hidden"] += 1


def refuse_overlap(source: Path, out: Path) -> None:
    """Check that neither of two folders is, or lies in, the other, also through links or mounts.

    Raises:
        ConfigError: they overlap.
    """
    above_source, above_out = _identities(source), _identities(out)
    if _identity(str(source)) in above_out or (
        out.exists() and _identity(str(out)) in above_source
    ):
        _refuse(str(source), out)


def refuse_same(sources: Sequence[str], out: Path) -> None:
    """Check that the output folder is none of the inputs, also through links or mounts.

    Raises:
        ConfigError: it is.
    """
    for source in sources:
        if os.path.isdir(source) and out.exists() and _identity(source) == _identity(str(out)):
            _refuse(source, out)


def refuse_linked(images: pa.Table, out: Path) -> None:
    """Check that no image file of a table (`inputs.SCHEMA`) lies in the output folder.

    Raises:
        ConfigError: one does, perhaps through a link.
    """
    if not out.exists():
        return
    own = _identity(str(out))
    is_below: dict[bytes, bool] = {}
    files = images.filter(pc.less(images["offset"], 0))["path"]
    for chunk in files.chunks:
        for path in chunk.to_pylist():
            path = os.fsencode(here(path) or path)
            folder = os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path)
            if folder not in is_below:
                is_below[folder] = own in _identities(Path(os.fsdecode(folder)))
            if is_below[folder]:
                _refuse(os.fsdecode(path), out)


def _refuse(source: str, out: Path) -> NoReturn:
    raise ConfigError(
        f"{source} and --out {out} overlap, so that results would be taken for images; give an "
        "--out that is apart from the images"
    )


def _identities(path: Path) -> set[tuple[int, int]]:
    """Identities of a folder and of the folders above it, links resolved, as far as they exist."""
    real = Path(os.path.realpath(path))
    return {_identity(str(folder)) for folder in (real, *real.parents) if folder.exists()}


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself. If its name is that of an image, reading it will report the failure.
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
