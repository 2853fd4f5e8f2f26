"""`written.txt`: the files that a job has written or was about to write, and what they hold.

A line is a kind of file and a key, such as `cutout a/cat`. It is written before the file itself: a
file that is not listed is somebody else's. When the file is there, another line says what it holds:
`file`, its path as a key, size in bytes, CRC-32, and time of its last change in nanoseconds. Of
several such lines about a file the last one counts.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from a2s.errors import DataError
from a2s.storage.files import atomic_path, facts_of, naming, open_file, read_bytes
from a2s.storage.objects.urls import here

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "written.txt"
FILE = "file"
"""Kind of a line that says what a file holds."""
_NUMBERS = {"size": "int64", "crc32": "uint32", "mtime_ns": "int64"}
_BLOCK_BYTES = 1 << 20
_LINE = (
    r"^(?:file (?P<path>[!-~]+) (?P<size>[0-9]+) (?P<crc32>[0-9]+) (?P<mtime_ns>[0-9]+)"
    r"|(?P<kind>[a-z]+) (?P<key>[!-~]+))$"
)
_BEGUN = ("kind", "key")
_GROUPS = ("path", *_NUMBERS, *_BEGUN)
_PARSED_BYTES = 1 << 23
_NOWHERE = "\x01"
"""What no line holds, so that a line is one column."""

State = Literal["same", "redated", "changed"]
"""Of a file that was written: as it was; the same bytes with another date; other bytes."""


class Written(NamedTuple):
    """What a file held when it was written; `key` stands for its path in the folder."""

    key: str
    size: int
    crc32: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, key: str, data: bytes) -> Written:
        """Describe a file into which `data` has just been written."""
        return cls(key, len(data), zlib.crc32(data), path.stat().st_mtime_ns)

    @classmethod
    def read(cls, path: Path, key: str) -> Written:
        """Describe a file by reading it.

        Raises:
            OSError: it cannot be read.
        """
        facts = facts_of(path)
        return cls(key, facts.size, crc32_of(path), facts.mtime_ns)

    def state_of(self, path: Path) -> State:
        """What became of the file, which is read only where its date is another one.

        Raises:
            OSError: it is missing, or cannot be read.
        """
        facts = facts_of(path)
        if facts.size != self.size:
            return "changed"
        # A store gives objects dates of its own, and keeps checksums itself.
        if facts.mtime_ns == self.mtime_ns or here(path) is not None:
            return "same"
        return "redated" if crc32_of(path) == self.crc32 else "changed"


def crc32_of(path: Path) -> int:
    """CRC-32 of a file's bytes.

    Raises:
        OSError: as `files.open_file`, or reading fails.
    """
    crc32 = 0
    with open_file(path) as file:
        while block := file.read(_BLOCK_BYTES):
            crc32 = zlib.crc32(block, crc32)
    return crc32


def write_list(folder: Path, files: Iterable[Written]) -> None:
    """Write the list of a job that is done, in place of an earlier one."""
    with atomic_path(folder / FILE_NAME) as temporary, temporary.open("w", encoding="ascii") as out:
        out.writelines(_line(file) for file in files)
        out.flush()
        os.fsync(out.fileno())


class WrittenFiles:
    """The list of one output folder; who adds to it has locked the folder.

    Raises:
        DataError: the list is damaged.
        NotAFile: it is no file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        data = read_bytes(self._path) if self._path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        self._end = len(whole) if len(whole) < len(data) else None
        """Where the last whole line ends, if a crash has left a part of another one."""
        begun, there = _parsed(whole, self._path)
        self._kinds, self._keys = begun["kind"], begun["key"]
        self._known, (self._size_N, self._crc32_N, self._mtime_ns_N) = _last_of_each(there)

    def lists(self, kind: str, keys: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Which files of a kind are listed. Shape: N."""
        import pyarrow.compute as pc

        own = self._keys.filter(pc.equal(self._kinds, kind))
        found: NDArray[np.bool_] = pc.is_in(keys, value_set=own).to_numpy()
        return found

    def listed(self, kind: str) -> list[str]:
        """Keys that are listed with a kind; with `FILE`, where it is known what the file holds."""
        import pyarrow.compute as pc

        own = self._known if kind == FILE else self._keys.filter(pc.equal(self._kinds, kind))
        found: list[str] = own.unique().to_pylist()
        return found

    def position_of(self, keys: pa.ChunkedArray) -> NDArray[np.int64]:
        """Position of what is known about each file, for `at`; -1 for nothing. Shape: N."""
        import pyarrow.compute as pc

        found = pc.fill_null(pc.index_in(keys, value_set=self._known), -1)
        return np.asarray(found.to_numpy(), np.int64)

    def at(self, position: int) -> Written:
        """What is known about a file."""
        numbers = (int(N[position]) for N in (self._size_N, self._crc32_N, self._mtime_ns_N))
        return Written(self._known[position].as_py(), *numbers)

    def __len__(self) -> int:
        """Number of files of which the list says what they hold."""
        return len(self._known)

    def __iter__(self) -> Iterator[Written]:
        return map(self.at, range(len(self)))

    def add(self, files: Iterable[tuple[str, str]]) -> None:
        """Append (kind, key) of files that are about to be written, and wait until it is on disk.

        `lists` does not know them.
        """
        self._append((f"{kind} {key}\n" for kind, key in files), sync=True)

    def finish(self, files: Iterable[Written]) -> None:
        """Append what files hold that are written now. After a crash lines may be missing."""
        self._append(map(_line, files), sync=False)

    def _append(self, lines: Iterable[str], *, sync: bool) -> None:
        text = "".join(lines)
        if not text:
            return
        with naming(self._path), self._path.open("a", encoding="ascii") as file:
            if self._end is not None:
                # The file of half a line was not written yet.
                file.truncate(self._end)
                self._end = None
            file.write(text)
            file.flush()
            if sync:
                os.fsync(file.fileno())


def _line(file: Written) -> str:
    return f"{FILE} {file.key} {file.size} {file.crc32} {file.mtime_ns}\n"


def _blocks(data: bytes) -> Iterator[bytes]:
    """Cut whole lines into blocks, since parsing takes several times their memory."""
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + _PARSED_BYTES) + 1
        end = end or data.index(b"\n", start) + 1
        yield data[start:end]
        start = end


def _parsed(data: bytes, path: Path) -> tuple[pa.Table, pa.Table]:
    """Columns kind and key of what was begun; key, size, crc32 and mtime_ns of what is there.

    Raises:
        DataError: a line is damaged.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    text, numbers = pa.large_string(), {name: pa.type_for_alias(n) for name, n in _NUMBERS.items()}
    begun = [pa.schema([("kind", text), ("key", text)]).empty_table()]
    there = [pa.schema([("key", text), *numbers.items()]).empty_table()]
    try:
        for block in _blocks(data):
            found = pc.extract_regex(_lines(block), _LINE)
            if pc.any(pc.is_null(found)).as_py():
                raise pa.ArrowInvalid("a line is about no file")
            columns = {name: pc.struct_field(found, name) for name in _GROUPS}
            is_there = pc.not_equal(columns["path"], "")
            begun.append(
                pa.table({name: columns[name].filter(pc.invert(is_there)) for name in _BEGUN})
            )
            facts = {
                name: columns[name].filter(is_there).cast(kind) for name, kind in numbers.items()
            }
            there.append(pa.table({"key": columns["path"].filter(is_there), **facts}))
    except pa.ArrowInvalid as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path} is damaged ({why}); use another --out") from None
    return pa.concat_tables(begun), pa.concat_tables(there)


def _lines(data: bytes) -> pa.ChunkedArray:
    import pyarrow as pa
    from pyarrow import csv

    # Keys hold neither spaces nor quotes nor line ends (data/keys.py).
    return csv.read_csv(
        pa.BufferReader(data),
        csv.ReadOptions(column_names=["line"]),
        csv.ParseOptions(delimiter=_NOWHERE, quote_char=False),
        csv.ConvertOptions(column_types={"line": pa.large_string()}),
    )["line"]


def _last_of_each(facts: pa.Table) -> tuple[pa.ChunkedArray, list[NDArray[np.int64]]]:
    """Key and numbers of the last line about each file. Shape: each N."""
    import pyarrow as pa

    numbered = pa.table({"key": facts["key"], "row": pa.array(np.arange(len(facts)))})
    last = numbered.group_by("key").aggregate([("row", "max")])
    rows = pa.array(np.sort(last["row_max"].to_numpy()))
    facts = facts.take(rows)
    return facts["key"], [np.asarray(facts[name].to_numpy(), np.int64) for name in _NUMBERS]
