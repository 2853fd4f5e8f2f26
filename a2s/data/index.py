"""Index of a folder of shards: metadata columns in memory, random access to the samples' bytes."""

from __future__ import annotations

import hashlib
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
from a2s.errors import DataError, StorageError
from a2s.storage.files import read_json
from a2s.storage.hashing import sha256_file

_INT64 = ("offset", "size", "mask_offset", "mask_size")
_INT32 = ("width", "height")
_UINT32 = ("crc32", "mask_crc32")


@dataclass(frozen=True)
class ShardInfo:
    """One shard: path of its tar, number of samples, first row in the index, hash of the tar."""

    name: str
    path: Path
    count: int
    start: int
    sha256: str


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
            DataError: no shards, unfinished shards, or tables that do not match the manifests.
        """
        shards, fingerprint = _read_manifests(folder)
        table = _read_tables(folder, shards)
        counts = np.array([shard.count for shard in shards], dtype=np.int64)
        columns = {f"{name}_N": _column(table, name, np.int64) for name in _INT64}
        columns |= {f"{name}_N": _column(table, name, np.int32) for name in _INT32}
        columns |= {f"{name}_N": _column(table, name, np.uint32) for name in _UINT32}
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


def _read_manifests(folder: Path) -> tuple[list[ShardInfo], str]:
    paths = sorted(folder.glob("shard-*.json"))
    if not paths:
        raise DataError(f"{folder}: no finished shards (shard-000000.json …); make them first")
    shards: list[ShardInfo] = []
    start = 0
    expected_counts, settings = set(), set()
    fingerprint = hashlib.sha256()
    for path in paths:
        try:
            manifest = read_json(path)
            count, sha256 = int(manifest["count"]), str(manifest["tar_sha256"])
            expected_counts.add(manifest["num_shards"])
            settings.add(manifest["settings"])
            expected_bytes = int(manifest["tar_bytes"])
            table_sha256 = str(manifest["parquet_sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not a shard manifest ({error!r}); delete it and rerun the command that "
                "made it"
            ) from error
        tar = path.with_suffix(".tar")
        actual = tar.stat().st_size if tar.exists() else -1
        if actual != expected_bytes:
            state = "is missing" if actual < 0 else f"has {actual} bytes, not {expected_bytes}"
            raise DataError(
                f"{tar}: {state}; delete {path.name} and rerun the command that made it"
            )
        table = path.with_suffix(".parquet")
        if not table.exists() or sha256_file(table) != table_sha256:
            # Its offsets and keys decide which bytes are read under which name.
            state = "does not match its checksum" if table.exists() else "is missing"
            raise DataError(
                f"{table}: {state}; delete {path.name} and rerun the command that made it"
            )
        shards.append(ShardInfo(path.stem, tar, count, start, sha256))
        start += count
        fingerprint.update(f"{path.stem} {count} {sha256}\n".encode())
    if len(settings) > 1:
        raise DataError(f"{folder}: its shards were made with different settings; make them again")
    for number in expected_counts - {None}:
        if number != len(paths):
            raise DataError(
                f"{folder}: {len(paths)} of {number} shards are finished; rerun the command that"
                " makes them, it resumes"
            )
    return shards, fingerprint.hexdigest()


def _read_tables(folder: Path, shards: list[ShardInfo]) -> pa.Table:
    """Read all tables in shard order, and compare their row counts with the manifests."""
    paths = [str(folder / f"{shard.name}.parquet") for shard in shards]
    try:
        known = {"key", *_INT64, *_INT32, *_UINT32}
        dataset = ds.dataset(paths, format="parquet", schema=pq.read_schema(paths[0]))
        names = [name for name in dataset.schema.names if name in known]
        table = dataset.to_table(columns=[*names, "__filename"], use_threads=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{folder}: a table of its shards cannot be read ({error}); delete the shard-*.json of "
            "the damaged .parquet and rerun the command that made it"
        ) from error
    ordinals = pc.index_in(table["__filename"], pa.array(paths)).to_numpy()
    counts = np.bincount(ordinals.astype(np.int64), minlength=len(shards))
    for shard, count in zip(shards, counts, strict=True):
        if count != shard.count:
            raise DataError(
                f"{folder / shard.name}.parquet holds {count} rows, its manifest says"
                f" {shard.count}; delete {shard.name}.json and rerun the command that made it"
            )
    return table.drop_columns("__filename").set_column(
        names.index("key"), "key", table["key"].cast(pa.large_string())
    )


def _column(table: pa.Table, name: str, kind: Any) -> npt.NDArray[Any]:
    if name not in table.column_names:
        return np.full(len(table), -1 if kind is not np.uint32 else 0, dtype=kind)
    return np.ascontiguousarray(table[name].to_numpy(), dtype=kind)
