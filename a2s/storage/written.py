"""`written.txt`: the files that a job has written or was about to write, so that it knows its own.

A line is a kind of file and a key, such as `cutout a/cat`. It is written before the file itself: a
file that is not listed is somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from a2s.errors import DataError
from a2s.storage.files import naming, read_bytes

if TYPE_CHECKING:
    import pyarrow as pa

FILE_NAME = "written.txt"
_BLOCK_BYTES = 4096


class WrittenFiles:
    """The list of one output folder, which this process has locked.

    Raises:
        DataError: the list is damaged.
        NotAFile: it is no file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._drop_half_line()
        self._kinds, self._keys = self._read()

    def lists(self, kind: str, keys: pa.ChunkedArray) -> NDArray[np.bool_]:
        """Which files of a kind are listed. Shape: N."""
        import pyarrow.compute as pc

        own = self._keys.filter(pc.equal(self._kinds, kind))
        found: NDArray[np.bool_] = pc.is_in(keys, value_set=own).to_numpy()
        return found

    def add(self, files: Iterable[tuple[str, str]]) -> None:
        """Append (kind, key) of files that are about to be written, and wait until it is on disk.

        `lists` does not know them.
        """
        lines = "".join(f"{kind} {key}\n" for kind, key in files)
        if not lines:
            return
        with naming(self._path), self._path.open("a", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    def _drop_half_line(self) -> None:
        """Remove what a crash has left of a line; its file was not written yet."""
        if not self._path.is_file():
            return
        with self._path.open("rb+") as file:
            size = end = file.seek(0, os.SEEK_END)
            last = -1
            while end and last < 0:
                start = max(0, end - _BLOCK_BYTES)
                file.seek(start)
                last = file.read(end - start).rfind(b"\n")
                end = start + last + 1
            if end < size:
                file.truncate(end)

    def _read(self) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        import pyarrow as pa
        from pyarrow import csv

        types = {"kind": pa.string(), "key": pa.large_string()}
        data = read_bytes(self._path) if self._path.exists() else b""
        if not data:
            return tuple(pa.chunked_array([], kind) for kind in types.values())
        # Keys hold neither spaces nor quotes nor line ends (data/keys.py).
        try:
            table = csv.read_csv(
                pa.BufferReader(data),
                csv.ReadOptions(column_names=list(types)),
                csv.ParseOptions(delimiter=" ", quote_char=False),
                csv.ConvertOptions(column_types=types, strings_can_be_null=False),
            )
        except pa.ArrowInvalid as error:
            why = " ".join(str(error).split())
            raise DataError(f"{self._path} is damaged ({why}); use another --out") from None
        return table["kind"], table["key"]
