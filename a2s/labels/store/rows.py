"""Row files of the label store: immutable files of up to 256 labels.

Layout (little endian): magic (8 bytes), version (u32), length of the JSON (u32), JSON {count,
height, width, dtype}, row indices (int64[count]), CRC-32 of each label (u32[count]), CRC-32 of all
bytes so far (u32), labels (uint16[count, height, width]). The header's checksum covers the labels'
checksums, so the header checksum in a manifest verifies the whole file.

Labels are 16-bit fixed point (`fixed_point.to_u16`): as small as float16, exact at 0, 0.5 and 1.
60 updates with lambda 0.4 leave an error of 1e-5 (float16: 4e-4, uint8: 3e-3).
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from a2s.errors import LabelError
from a2s.labels.store.fixed_point import U16_STEPS, to_u16
from a2s.storage.files import atomic_path, open_file
from a2s.storage.parsing import parse_json

ROWS_PER_FILE = 256
MAGIC = b"A2SROWS\x00"
VERSION = 1
DTYPE = f"uint16/{U16_STEPS}"
_PREFIX = struct.Struct("<8sII")
_MAX_JSON = 4096
_MAX_COUNT = 1 << 20

U16 = npt.NDArray[np.uint16]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowFile:
    """Manifest entry of a row file: path relative to the store, number of labels, header CRC-32."""

    name: str
    count: int
    crc32: int


@dataclass(frozen=True)
class RowHeader:
    """Parsed header of a row file."""

    file: RowFile
    rows_N: I64
    crc32_N: npt.NDArray[np.uint32]
    height: int
    width: int
    data_offset: int


class RowWriter:
    """Writes this rank's labels to row files of `rows_per_file` labels each, atomically.

    File names consist of generation, first step, rank and number. They are derivable from the
    number of files per rank, so no directory listing (stale on NFS) is needed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        generation: int,
        step: int,
        rank: int,
        height: int,
        width: int,
        rows_per_file: int = ROWS_PER_FILE,
    ) -> None:
        self._folder = folder
        self._stem = (generation, step, rank)
        self._labels_NHW: U16 = np.empty((rows_per_file, height, width), np.uint16)
        self._rows: list[int] = []
        self._files: list[RowFile] = []

    def add(self, row_index: int, label_HW: npt.NDArray[np.float32] | U16) -> None:
        """Append the label of one image: float32 in [0, 1], or encoded (uint16)."""
        self._labels_NHW[len(self._rows)] = quantise(label_HW)
        self._rows.append(row_index)
        if len(self._rows) == len(self._labels_NHW):
            self._flush()

    def close(self) -> list[RowFile]:
        """Write the remaining labels; return all files of this writer, in order."""
        if self._rows:
            self._flush()
        return self._files

    def _flush(self) -> None:
        generation, step, rank = self._stem
        name = row_file_name(generation=generation, step=step, rank=rank, number=len(self._files))
        path = self._folder / name
        if path.exists():
            raise LabelError(
                f"{path} exists already, and row files are never overwritten; resuming the run "
                "removes leftovers"
            )
        labels_NHW = self._labels_NHW[: len(self._rows)]
        self._files.append(write_rows(self._folder, name, self._rows, labels_NHW))
        self._rows = []


def write_rows(folder: Path, name: str, rows: Sequence[int], labels_NHW: U16) -> RowFile:
    """Write a row file; atomic and deterministic."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    labels_NHW = np.ascontiguousarray(labels_NHW, dtype="<u2")
    head = _head(np.asarray(rows, "<i8"), labels_NHW)
    crc32 = zlib.crc32(head)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(head)
        stream.write(struct.pack("<I", crc32))
        stream.write(labels_NHW.data)
    return RowFile(name=name, count=len(rows), crc32=crc32)


def row_file_name(*, generation: int, step: int, rank: int, number: int) -> str:
    """Path, relative to the store, of a rank's row file `number`."""
    return f"{generation:05d}/s{step:08d}-r{rank:04d}-{number:05d}.rows"


def quantise(label: npt.NDArray[np.float32] | U16) -> U16:
    """Encode a label as 16-bit fixed point; encoded labels pass through.

    Raises: LabelError for a value that is NaN or outside [0, 1].
    """
    if label.dtype == np.uint16:
        return label.astype(np.uint16, copy=False)
    if not bool(((label >= 0) & (label <= 1)).all()):
        raise LabelError("a label has values outside [0, 1]; nothing was stored for it")
    return to_u16(label.astype(np.float32))


def cure(store: Path) -> str:
    """What to do about a damaged file of a run's label store."""
    return (
        f"; restore it from a copy, or let a2s verify {store.parent} --repair go back to an intact "
        "commit"
    )


def read_header(folder: Path, name: str) -> RowHeader:
    """Read and verify the header of a row file.

    Raises: LabelError if the file is missing, truncated, or damaged.
    """
    path = folder / name
    descriptor = _open(path, folder)
    try:
        return _read_header(descriptor, folder, name)
    finally:
        os.close(descriptor)


def read_row(folder: Path, file: RowFile, position: int, *, row_index: int) -> U16:
    """Read one label. Opens the file for each call, which is safe after fork and on NFS.

    Shape: uint16[height, width].
    Raises: LabelError if the file is missing, damaged, or differs from the manifest.
    """
    path = folder / file.name
    descriptor = _open(path, folder)
    try:
        header = _read_header(descriptor, folder, file.name)
        is_there = header.file == file and 0 <= position < file.count
        if not is_there or header.rows_N[position] != row_index:
            raise LabelError(f"{path} differs from its entry in the manifest{cure(folder)}")
        size = header.height * header.width * 2
        data = os.pread(descriptor, size, header.data_offset + position * size)
    finally:
        os.close(descriptor)
    if len(data) != size or zlib.crc32(data) != header.crc32_N[position]:
        raise LabelError(
            f"{path}: the label of row {row_index} is damaged (checksum){cure(folder)}"
        )
    return np.frombuffer(data, "<u2").reshape(header.height, header.width)


def _head(rows_N: I64, labels_NHW: U16) -> bytes:
    count, height, width = labels_NHW.shape
    shape = {"count": count, "height": height, "width": width, "dtype": DTYPE}
    text = json.dumps(shape).encode()
    crc32_N = np.asarray([zlib.crc32(label_HW.data) for label_HW in labels_NHW], "<u4")
    return _PREFIX.pack(MAGIC, VERSION, len(text)) + text + rows_N.tobytes() + crc32_N.tobytes()


def _open(path: Path, folder: Path) -> int:
    try:
        with open_file(path) as file:
            return os.dup(file.fileno())
    except OSError as error:
        raise LabelError(
            f"{path}: a row file of the labels cannot be read ({error}){cure(folder)}"
        ) from error


def _read_header(descriptor: int, folder: Path, name: str) -> RowHeader:
    """Parse the header and verify its checksum."""
    path = folder / name
    damaged = LabelError(f"{path}: the header of this row file is damaged{cure(folder)}")
    prefix = os.pread(descriptor, _PREFIX.size, 0)
    if len(prefix) != _PREFIX.size:
        raise damaged
    magic, version, num_text = _PREFIX.unpack(prefix)
    if magic != MAGIC or num_text > _MAX_JSON:
        raise damaged
    if version != VERSION:
        raise LabelError(f"{path}: row file of version {version}; this a2s reads version {VERSION}")
    try:
        shape = parse_json(os.pread(descriptor, num_text, _PREFIX.size))
        count, height, width = (int(shape[field]) for field in ("count", "height", "width"))
        dtype = shape["dtype"]
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error
    if not 0 < count <= _MAX_COUNT or dtype != DTYPE:
        raise damaged
    num_head = _PREFIX.size + num_text + 12 * count
    head = os.pread(descriptor, num_head + 4, 0)
    if len(head) != num_head + 4 or zlib.crc32(head[:-4]) != struct.unpack("<I", head[-4:])[0]:
        raise damaged
    start = _PREFIX.size + num_text
    return RowHeader(
        file=RowFile(name=name, count=count, crc32=zlib.crc32(head[:-4])),
        rows_N=np.frombuffer(head, "<i8", count, start),
        crc32_N=np.frombuffer(head, "<u4", count, start + 8 * count),
        height=height,
        width=width,
        data_offset=num_head + 4,
    )
