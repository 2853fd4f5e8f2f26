"""Manifests and tables of a folder of shards, checked before anything that they say is used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from a2s.data.keys import IS_KEY, IS_NO_KEY
from a2s.data.shards import read_manifest
from a2s.errors import DataError
from a2s.storage.files import size_of
from a2s.storage.hashing import sha256_file

COLUMNS = {
    **dict.fromkeys(("offset", "size", "mask_offset", "mask_size"), pa.int64()),
    **dict.fromkeys(("width", "height"), pa.int32()),
    **dict.fromkeys(("crc32", "mask_crc32"), pa.uint32()),
}
"""Columns of numbers that an index keeps; only offset, size and crc32 need be there."""
_NEEDED = ("key", "offset", "size", "crc32")


@dataclass(frozen=True)
class ShardInfo:
    """One shard: its tar, number of samples, first row in the index, hash and size of the tar."""

    name: str
    path: Path
    count: int
    start: int
    sha256: str
    num_bytes: int
    made_of: str | None = None
    """Of label shards: SHA-256 of the tar of the data shard, if the manifest says it."""


def read_manifests(folder: Path) -> tuple[list[ShardInfo], str]:
    """Read all manifests of a folder; return the shards in order, and a hash of their contents.

    Raises:
        DataError: as `Index.load`.
    """
    paths = sorted(folder.glob("shard-*.json"))
    if not paths:
        raise DataError(f"{folder}: no finished shards (shard-000000.json …); make them first")
    shards: list[ShardInfo] = []
    start = 0
    expected_counts, settings = set(), set()
    fingerprint = hashlib.sha256()
    for path in paths:
        try:
            manifest = read_manifest(path)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: not a shard manifest ({error}); delete it and rerun the command that "
                "made it"
            ) from error
        count, sha256 = manifest["count"], manifest["tar_sha256"]
        expected_counts.add(manifest["num_shards"])
        settings.add(manifest["settings"])
        expected_bytes = manifest["tar_bytes"]
        table_sha256 = manifest["parquet_sha256"]
        tar = path.with_suffix(".tar")
        actual = size_of(tar)
        if actual != expected_bytes:
            state = "is missing" if actual < 0 else f"has {actual} bytes, not {expected_bytes}"
            raise DataError(
                f"{tar}: {state}; delete {path.name} and rerun the command that made it"
            )
        table = path.with_suffix(".parquet")
        if not table.is_file() or sha256_file(table) != table_sha256:
            # Its offsets and keys decide which bytes are read under which name.
            state = "does not match its checksum" if table.is_file() else "is missing"
            raise DataError(
                f"{table}: {state}; delete {path.name} and rerun the command that made it"
            )
        made_of = manifest.get("data_sha256")
        shards.append(ShardInfo(path.stem, tar, count, start, sha256, expected_bytes, made_of))
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


def read_tables(folder: Path, shards: list[ShardInfo]) -> pa.Table:
    """Read all tables in shard order, and compare their row counts with the manifests."""
    paths = [str(folder / f"{shard.name}.parquet") for shard in shards]
    try:
        schema = pq.read_schema(paths[0])
        if missing := [name for name in _NEEDED if name not in schema.names]:
            raise DataError(f"{paths[0]}: has no column {missing[0]}; it is not of a shard")
        dataset = ds.dataset(paths, format="parquet", schema=schema)
        names = ["key", *(name for name in COLUMNS if name in schema.names)]
        table = dataset.to_table(columns=[*names, "__filename"], use_threads=True)
        kinds = [pa.large_string(), *(COLUMNS[name] for name in names[1:]), pa.string()]
        table = table.cast(pa.schema(zip(table.column_names, kinds, strict=True)))
    except (OSError, pa.ArrowException) as error:
        why = " ".join(str(error).split())
        raise DataError(
            f"{folder}: a table of its shards cannot be read ({why}); delete the shard-*.json of "
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
    table = table.drop_columns("__filename")
    for name in names:
        if table[name].null_count:
            raise DataError(f"{folder}: a row of its shards has no {name}; make them again")
    _refuse_false_keys(folder, table["key"])
    num_bytes_N = np.repeat([shard.num_bytes for shard in shards], counts)
    for kind in ("", "mask_"):
        offset_N, size_N = column(table, f"{kind}offset"), column(table, f"{kind}size")
        is_none_N = (offset_N == -1) & (size_N == -1) & bool(kind)
        is_inside_N = (offset_N >= 0) & (size_N >= 0) & (size_N <= num_bytes_N - offset_N)
        if not (is_inside_N | is_none_N).all():
            key = table["key"][int(np.argmin(is_inside_N | is_none_N))].as_py()
            raise DataError(f"{folder}: the bytes of {key} lie outside its shard; make it again")
    return table


def _refuse_false_keys(folder: Path, keys: pa.ChunkedArray) -> None:
    """Raise DataError for a key that is no safe name: as `keys.decode_key`, for millions."""
    is_wrong = pc.or_(
        pc.invert(pc.match_substring_regex(keys, IS_KEY)),
        pc.match_substring_regex(keys, IS_NO_KEY),
    )
    if (first := pc.index(is_wrong, True).as_py()) >= 0:
        raise DataError(
            f"{folder}: {keys[first].as_py()!r} is not a key, that is, a safe relative name; "
            "make the shards again with a2s shard"
        )


def column(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """A column of numbers; where it is missing -1, or 0 for a checksum. Shape: N."""
    kind = COLUMNS[name].to_pandas_dtype()
    if name not in table.column_names:
        return np.full(len(table), -1 if kind is not np.uint32 else 0, dtype=kind)
    return np.ascontiguousarray(table[name].to_numpy(), dtype=kind)
