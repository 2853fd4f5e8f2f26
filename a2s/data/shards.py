"""Shard writer; `index` reads shards.

A shard consists of `NAME.tar`, `NAME.parquet` (one row per key) and the manifest `NAME.json`. The
manifest is written last and marks the shard as finished. Any WebDataset reader can read the tars.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from a2s.errors import DataError
from a2s.storage.failures import Failure
from a2s.storage.files import atomic_path, read_json, size_of, write_json
from a2s.storage.hashing import sha256_file
from a2s.storage.parsing import first_problem

MASK = "mask.png"

_BLOCK = 512
_OWN = "manifest_sha256"
"""Entry of a manifest with the digest of all others; older versions wrote none."""


def shard_name(number: int) -> str:
    """Name of a shard: the stem of its three files."""
    return f"shard-{number:06d}"


class _Manifest(BaseModel):
    """What every manifest of a shard has; label shards need the rest, too."""

    model_config = ConfigDict(strict=True)

    name: str
    count: int = Field(ge=0)
    tar_bytes: int = Field(ge=0, lt=2**63)
    tar_sha256: str
    parquet_sha256: str
    settings: str
    num_shards: int | None = Field(ge=1)
    data_sha256: str | None = None
    failures: list[Failure] = []
    num_images: int = Field(0, ge=0)
    num_images_total: int = Field(0, ge=0)
    num_empty: int = Field(0, ge=0)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a shard's manifest; what every manifest has is there, and of the right kind.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not the manifest of the shard with this name.
    """
    values: dict[str, Any] = read_json(path)
    try:
        manifest = _Manifest.model_validate(values)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from None
    if _OWN in values and values != sealed(values):
        raise ValueError("it does not match its checksum")
    if manifest.name != path.stem:
        raise ValueError(f"it is of the shard {manifest.name!r}")
    return values


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with its digest, which `read_manifest` verifies."""
    values = {name: value for name, value in manifest.items() if name != _OWN}
    # In ASCII: names of files may be of any bytes.
    text = json.dumps(values, sort_keys=True).encode()
    return {**values, _OWN: hashlib.sha256(text).hexdigest()}


def shard_done(out: Path, name: str, *, settings: str | None) -> dict[str, Any] | None:
    """Return the manifest of a shard if it is finished and was made with `settings`, else None.

    Without `settings` any will do.
    """
    try:
        manifest = read_manifest(out / f"{name}.json")
        tar_bytes = size_of(out / f"{name}.tar")
        complete = settings in (None, manifest["settings"]) and manifest["tar_bytes"] == tar_bytes
        intact = sha256_file(out / f"{name}.parquet") == manifest["parquet_sha256"]
    except (FileNotFoundError, ValueError):
        return None
    return manifest if complete and intact else None


def remove_leftovers(out: Path, names: Collection[str]) -> None:
    """Delete temporary files that killed writers of these shards left.

    No process may be writing these shards.
    """
    for path in out.glob(".*.tmp"):
        if path.name.split(".")[1] in names:
            path.unlink(missing_ok=True)


class ShardWriter:
    """Context manager that writes one shard; deterministic and atomic.

    All three files appear on success, the manifest last; none after an exception. Several processes
    may write the same shard from the same input concurrently: renames are atomic, so the shard is
    always complete.

    `columns` maps extra table columns to Arrow types or their aliases (`{"width": "int32"}`); key,
    offset, size and crc32 (also of the mask) are always present. `settings` is the hash of the
    settings that made the shard, `num_shards` the number of shards in the complete folder.
    """

    def __init__(
        self,
        out: Path,
        name: str = "shard-000000",
        *,
        columns: Mapping[str, Any] | None = None,
        settings: str = "",
        num_shards: int | None = None,
    ) -> None:
        self.out = out
        self.name = name
        self.extra: dict[str, object] = {}
        """Additional manifest entries; set them before the writer exits."""
        self._settings = settings
        self._num_shards = num_shards
        fields = {
            "key": pa.string(),
            "offset": pa.int64(),
            "size": pa.int64(),
            "crc32": pa.uint32(),
            "mask_offset": pa.int64(),
            "mask_size": pa.int64(),
            "mask_crc32": pa.uint32(),
        }
        for column, kind in (columns or {}).items():
            assert column not in fields, column
            fields[column] = pa.type_for_alias(kind) if isinstance(kind, str) else kind
        self._schema = pa.schema(list(fields.items()))
        self._rows: dict[str, list[object]] = {column: [] for column in fields}

    def __enter__(self) -> ShardWriter:
        # Imported lazily: it imports torch, which readers of shards do not need.
        from webdataset.writer import TarWriter

        self._stack = ExitStack()
        temporary = self._stack.enter_context(atomic_path(self.out / f"{self.name}.tar"))
        self._file = _HashingFile(self._stack.enter_context(temporary.open("wb")))
        self._tar = TarWriter(
            self._file,
            user="a2s",
            group="a2s",
            mode=0o644,
            compress=False,
            encoder=False,
            mtime=0,
            format="GNU_FORMAT",
        )
        return self

    def add(self, key: str, members: Mapping[str, bytes], **values: object) -> None:
        """Append a sample.

        `members` maps extensions without the leading dot to bytes: the image or label first, then
        optionally `mask.png`. `values` are the extra columns.
        """
        main, *others = members
        assert others in ([], [MASK]), others
        offset, size, crc32 = self._append(key, main, members[main])
        mask_offset, mask_size, mask_crc32 = -1, -1, 0
        if others:
            mask_offset, mask_size, mask_crc32 = self._append(key, MASK, members[MASK])
        row = {
            "key": key,
            "offset": offset,
            "size": size,
            "crc32": crc32,
            "mask_offset": mask_offset,
            "mask_size": mask_size,
            "mask_crc32": mask_crc32,
            **values,
        }
        assert row.keys() == self._rows.keys(), sorted(row.keys() ^ self._rows.keys())
        for column, value in row.items():
            self._rows[column].append(value)

    def _append(self, key: str, extension: str, data: bytes) -> tuple[int, int, int]:
        self._tar.write({"__key__": key, extension: data})
        padded = -(-len(data) // _BLOCK) * _BLOCK
        return self._tar.tarstream.offset - padded, len(data), zlib.crc32(data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            with suppress(OSError):
                self._tar.close()
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            self._tar.close()
            table = self._stack.enter_context(atomic_path(self.out / f"{self.name}.parquet"))
            pq.write_table(pa.table(self._rows, schema=self._schema), table)
            manifest = sealed(
                {
                    "name": self.name,
                    "count": len(self._rows["key"]),
                    "tar_bytes": self._file.num_bytes,
                    "tar_sha256": self._file.sha256.hexdigest(),
                    "parquet_sha256": sha256_file(table),
                    "settings": self._settings,
                    "num_shards": self._num_shards,
                    **self.extra,
                }
            )
            # Delete an earlier manifest, which would describe the old tar, unless it is equal.
            path = self.out / f"{self.name}.json"
            if not _holds(path, manifest):
                path.unlink(missing_ok=True)
        write_json(path, manifest)


def _holds(path: Path, value: Mapping[str, object]) -> bool:
    try:
        return bool(read_json(path) == json.loads(json.dumps(value)))
    except (OSError, ValueError):
        return False


class _HashingFile:
    """Write-only file that computes the SHA-256 and the size of its contents."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.num_bytes += len(data)
        return self._file.write(data)


def refuse_unsafe_member(name: str, *, source: str) -> None:
    """Refuse a member whose name escapes the folder that it is extracted to.

    Raises:
        DataError: the name is absolute, has a `..` segment or a NUL.
    """
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise DataError(f"{source}: member {name!r} escapes the folder; refused")
