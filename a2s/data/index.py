"""Index of a folder of shards: metadata columns in memory, random access to the samples' bytes."""

from __future__ import annotations

import socket
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from a2s.data.open_files import Descriptors
from a2s.data.tables import COLUMNS, ShardInfo, column, read_manifests, read_tables
from a2s.errors import DataError, StorageError


@dataclass(frozen=True)
class Index:
    """Columns of length N over all samples of a folder of shards, in shard order.

    Keys stay in an Arrow array because ten million Python strings would not fit in memory.
    `width_N` and `height_N` are -1 if the shards do not store them; `mask_offset_N` is -1 for a
    sample without a mask.
    """

    folder: Path
    shards: list[ShardInfo]
    fingerprint: str
    keys: pa.ChunkedArray
    shard_N: npt.NDArray[np.int32]
    offset_N: npt.NDArray[np.int64]
    size_N: npt.NDArray[np.int64]
    crc32_N: npt.NDArray[np.uint32]
    width_N: npt.NDArray[np.int32]
    height_N: npt.NDArray[np.int32]
    mask_offset_N: npt.NDArray[np.int64]
    mask_size_N: npt.NDArray[np.int64]
    mask_crc32_N: npt.NDArray[np.uint32]
    _files: Descriptors

    @staticmethod
    def load(folder: Path) -> Index:
        """Read the manifests and tables of a folder of data or label shards.

        Raises:
            DataError: no shards, unfinished shards, or tables that do not match the manifests, or
                name keys and bytes that no shard of a2s has.
        """
        shards, fingerprint = read_manifests(folder)
        table = read_tables(folder, shards)
        counts = np.array([shard.count for shard in shards], dtype=np.int64)
        columns = {f"{name}_N": column(table, name) for name in COLUMNS}
        return Index(
            folder=folder,
            shards=shards,
            fingerprint=fingerprint,
            keys=table["key"],
            shard_N=np.repeat(np.arange(len(shards), dtype=np.int32), counts),
            _files=Descriptors([shard.path for shard in shards]),
            **columns,
        )

    def __len__(self) -> int:
        return len(self.offset_N)

    @property
    def shard_sizes(self) -> npt.NDArray[np.int64]:
        """Number of samples per shard, for `make_plan`. Shape: S, int64."""
        return np.array([shard.count for shard in self.shards], dtype=np.int64)

    def shard_rows(self, shard: int) -> range:
        """Rows of one shard."""
        info = self.shards[shard]
        return range(info.start, info.start + info.count)

    def pixels(self, row: int) -> int:
        """Number of pixels of an image; may exceed `MAX_PIXELS` if `a2s shard` allowed more."""
        return int(self.width_N[row]) * int(self.height_N[row])

    def part(self, rows: range) -> Index:
        """Index of consecutive rows of one shard, small enough to send to a worker process."""
        shard = self.shards[int(self.shard_N[rows.start])]
        assert rows.stop <= shard.start + shard.count, (rows, shard)
        names = [field.name for field in fields(self) if field.name.endswith("_N")]
        columns = {name: getattr(self, name)[rows.start : rows.stop] for name in names}
        return replace(
            self,
            shards=[replace(shard, count=len(rows), start=0)],
            keys=pa.chunked_array([pa.array(self.keys_for(rows), pa.large_string())]),
            _files=Descriptors([shard.path]),
            **(columns | {"shard_N": np.zeros(len(rows), dtype=np.int32)}),
        )

    def head(self, num_samples: int) -> Index:
        """Index of the first `num_samples` samples and their shards."""
        shards = [
            replace(shard, count=min(shard.count, num_samples - shard.start))
            for shard in self.shards
            if shard.start < num_samples
        ]
        names = [field.name for field in fields(self) if field.name.endswith("_N")]
        columns = {name: getattr(self, name)[:num_samples] for name in names}
        return replace(self, shards=shards, keys=self.keys[:num_samples], **columns)

    def key(self, row: int) -> str:
        """Key of a row."""
        key: str = self.keys[int(row)].as_py()
        return key

    def keys_for(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """Keys of some rows."""
        keys: list[str] = self.keys.take(pa.array(np.asarray(rows, dtype=np.int64))).to_pylist()
        return keys

    def rows_of(self, keys: pa.ChunkedArray | pa.Array | Sequence[str]) -> npt.NDArray[np.int64]:
        """Rows of some keys, -1 for an unknown key. Vectorised, for millions of keys.

        Shape: len(keys), int64.
        """
        if not isinstance(keys, pa.Array | pa.ChunkedArray):
            keys = pa.array(list(keys), pa.large_string())
        found = pc.index_in(keys.cast(pa.large_string()), self.keys)
        rows: npt.NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
        return rows

    def rows_by_key(self) -> dict[str, int]:
        """Mapping from key to row, for folders small enough for a dictionary."""
        return {key: row for row, key in enumerate(self.keys.to_pylist())}

    def column(self, name: str) -> npt.NDArray[Any]:
        """Read another column of the tables, for example a quality number. Shape: N.

        Raises:
            DataError: the shards have no such column.
        """
        paths = [self.folder / f"{shard.name}.parquet" for shard in self.shards]
        if name not in pq.read_schema(paths[0]).names:
            raise DataError(f"{self.folder}: the shards have no column {name}")
        values: npt.NDArray[Any] = ds.dataset(paths).to_table([name])[name].to_numpy()
        return values

    def read(self, row: int) -> bytes:
        """Read a sample's image or label and verify its checksum.

        Raises:
            DataError: the shard is damaged or was replaced; names shard and key.
            StorageError: the shard cannot be read on this machine.
        """
        shard = self.shards[int(self.shard_N[row])]
        try:
            data = self._files.read(
                int(self.shard_N[row]), offset=int(self.offset_N[row]), size=int(self.size_N[row])
            )
        except OSError as error:
            # The image itself is fine, so stop: quarantined images are never read again.
            raise StorageError(
                f"{shard.path}: cannot be read at key {self.key(row)} on {socket.gethostname()} "
                f"({error.strerror}); make it readable; the same command resumes"
            ) from error
        if len(data) != self.size_N[row] or zlib.crc32(data) != self.crc32_N[row]:
            raise DataError(
                f"{shard.path}: key {self.key(row)} does not match its checksum; the file is"
                " damaged: delete this shard's .json and rerun the command that made it"
            )
        return data
