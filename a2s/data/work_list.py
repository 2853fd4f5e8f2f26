"""`work.json` and `work.parquet`: what a job of `a2s shard` packs, as it was when the job began."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from a2s.errors import DataError
from a2s.storage.failures import Failure
from a2s.storage.files import NotAFile, atomic_path, read_json, write_json
from a2s.storage.hashing import sha256_file
from a2s.storage.parsing import first_problem

WORK, IMAGES = "work.json", "work.parquet"
_OWN = "sha256"
"""Entry with the digest of all others."""


class _Work(BaseModel):
    """What every list has; those of older versions have neither checksums nor tars."""

    model_config = ConfigDict(strict=True)

    num_images: int = Field(ge=0)
    num_shards: int = Field(ge=0)
    failures: list[Failure]
    stray_masks: list[Failure]
    skipped: dict[str, int]
    without_mask: int = Field(ge=0)
    num_lost: int = Field(ge=0)
    lost_is_known: bool
    tars: list[dict[str, Any]] = []
    parquet_sha256: str | None = None
    sha256: str | None = None


def write(folder: Path, images: pa.Table, work: dict[str, Any], *, shard_size: int) -> None:
    """Write the table of images, a row group per shard, and what else the job must know."""
    with atomic_path(folder / IMAGES) as temporary:
        pq.write_table(images, temporary, row_group_size=shard_size)
    values = {**work, "parquet_sha256": sha256_file(folder / IMAGES)}
    write_json(folder / WORK, {**values, _OWN: _digest(values)})


def read(folder: Path, *, shard_size: int | None) -> dict[str, Any]:
    """Read what the job must know, and verify it; None: the size of shards is not known.

    Raises:
        DataError: one of the files is missing, damaged, or of another list.
    """
    try:
        values: dict[str, Any] = read_json(folder / WORK)
        work = _Work.model_validate(values)
        if work.sha256 not in (None, _digest({k: v for k, v in values.items() if k != _OWN})):
            raise ValueError("it does not match its checksum")
        if shard_size and work.num_shards != -(-work.num_images // shard_size):
            raise ValueError(f"{work.num_shards} shards of {work.num_images} images are impossible")
        if work.parquet_sha256 not in (None, sha256_file(folder / IMAGES)):
            raise ValueError(f"{IMAGES} does not match its checksum")
    except (FileNotFoundError, NotAFile, ValueError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else error
        raise _damaged(folder / WORK, why) from error
    return values


def keys(folder: Path) -> list[str]:
    """Keys of all images that are packed.

    Raises:
        DataError: the table cannot be read.
    """
    try:
        found: list[str] = pq.read_table(folder / IMAGES, columns=["key"])["key"].to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _damaged(folder / IMAGES, " ".join(str(error).split())) from error
    return found


def _damaged(file: Path, why: object) -> DataError:
    return DataError(
        f"{file}: the list of what is packed is damaged ({why}); restore {WORK} and {IMAGES} from "
        "a copy, or pack again into another --out"
    )


def _digest(values: dict[str, Any]) -> str:
    # In ASCII: names of tars may be of any bytes.
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
