"""Worker side of `a2s shard`: read, verify, quarantine and write the images of one shard."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from a2s.data import images, masks
from a2s.data.open_files import Address
from a2s.data.shards import MASK, ShardWriter, shard_name
from a2s.data.work_list import IMAGES
from a2s.storage.failures import Failure, failure
from a2s.storage.files import open_file
from a2s.storage.hashing import short_hash

MASK_TOLERANCE = 0.02
"""A mask whose sides differ from those of its image by at most this share is resized to it."""

EXTENSIONS = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
}


COLUMNS = {
    "width": "int32",
    "height": "int32",
    "orientation": "int8",
    # Hash of the original file, for finding identical images under different keys.
    "content": "uint64",
}


@dataclass(frozen=True)
class PackingJob:
    """Settings that all packing tasks of a run share."""

    out: Path
    settings: str
    num_shards: int
    max_side: int | None
    max_pixels: int


@dataclass(frozen=True)
class PackingTask:
    """A shard to write; as a trial, some of its images are only read, to see who ends the process.

    `left_out`: images that do, with reason and detail.
    """

    number: int
    rows: range
    is_trial: bool = False
    left_out: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        name = shard_name(self.number)
        some = f", images {self.rows.start} to {self.rows.stop - 1}" if self.is_trial else ""
        return f"{name}{some}"


def trials(task: PackingTask) -> list[PackingTask]:
    """Trials of both halves of its images; none for the trial of one image."""
    first, last = task.rows.start, task.rows.stop
    middle = (first + last) // 2
    parts = [range(first, middle), range(middle, last)]
    if task.is_trial and middle == first:
        return []
    return [dataclasses.replace(task, rows=rows, is_trial=True) for rows in parts if rows]


class _Unusable(Exception):
    """Raised for an image that must be quarantined."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass
class _Seen:
    """What became of the masks of one shard, and of pages beyond the first."""

    counts: Counter[str] = field(default_factory=Counter)
    """Masks by `masks.MEANINGS`, and of all: resized, empty, full."""
    failures: list[Failure] = field(default_factory=list)
    """Masks that were left out; their images are packed without them."""
    num_multiframe: int = 0
    """Images of several pages or frames."""


def pack(task: PackingTask, work: PackingJob) -> dict[str, Any]:
    """Read, verify and write the images of one shard; a trial returns whom it leaves out."""
    with open_file(work.out / IMAGES) as file:
        rows = pq.ParquetFile(file).read_row_group(task.number).to_pylist()
    failures: list[Failure] = []
    seen = _Seen()
    name = shard_name(task.number)
    if task.is_trial:
        for position in task.rows:
            with contextlib.suppress(_Unusable):
                _sample(rows[position], work, seen)
        return {"left_out": {}}
    with ShardWriter(
        work.out, name, columns=COLUMNS, settings=work.settings, num_shards=work.num_shards
    ) as writer:
        for position, row in enumerate(rows):
            try:
                if position in task.left_out:
                    raise _Unusable(*task.left_out[position])
                members, values = _sample(row, work, seen)
            except _Unusable as error:
                source = row["member"] or os.fsdecode(row["path"])
                failures.append(failure(row["key"], source, error.reason, error.detail))
            else:
                writer.add(row["key"], members, **values)
        writer.extra["failures"] = failures
        if seen.num_multiframe:
            writer.extra["num_multiframe"] = seen.num_multiframe
        if seen.counts or seen.failures:
            writer.extra |= {"masks": dict(seen.counts), "mask_failures": seen.failures}
    return {"shard": name, "count": len(rows) - len(failures), "quarantined": len(failures)}


def _sample(
    row: dict[str, Any], work: PackingJob, seen: _Seen
) -> tuple[dict[str, bytes], dict[str, object]]:
    """Tar members and table columns of one image; decodes it once to verify it."""
    data = _read(Address(row["path"], row["offset"], row["size"]))
    try:
        info = images.probe(data, max_pixels=work.max_pixels)
        extension = EXTENSIONS[info.format]
        seen.num_multiframe += info.num_frames > 1
        content = short_hash(data)
        before = (info.width, info.height)
        if work.max_side and max(before) > work.max_side:
            data, extension = images.shrink(
                data, max_side=work.max_side, max_pixels=work.max_pixels
            )
            info = images.probe(data)
    except images.BadImage as error:
        raise _Unusable(error.reason, error.detail) from error
    members = {extension: data}
    if row["mask_path"] is not None:
        try:
            members[MASK] = _mask(row, seen, before=before, after=(info.width, info.height))
        except _Unusable as error:
            source = row["mask_member"] or os.fsdecode(row["mask_path"])
            seen.failures.append(failure(row["key"], source, error.reason, error.detail))
    values: dict[str, object] = {
        "width": info.width,
        "height": info.height,
        "orientation": info.orientation,
        "content": content,
    }
    return members, values


def _mask(
    row: dict[str, Any], seen: _Seen, *, before: tuple[int, int], after: tuple[int, int]
) -> bytes:
    """The mask as PNG; keeps the original bytes unless meaning, format or size must change."""
    try:
        data = _read(Address(row["mask_path"], row["mask_offset"], row["mask_size"]))
        mask_HW, meaning = masks.decode_truth(data)
    except (_Unusable, images.BadImage) as error:
        raise _Unusable(f"mask_{error.reason}", error.detail) from error
    size = (mask_HW.shape[1], mask_HW.shape[0])
    if any(
        abs(side - wanted) > max(1, MASK_TOLERANCE * wanted)
        for side, wanted in zip(size, before, strict=True)
    ):
        detail = f"the mask has {size[0]} x {size[1]} pixels, the image {before[0]} x {before[1]}"
        raise _Unusable("mask_size", detail)
    is_object_HW = mask_HW >= 128
    marks = {"resized": size != before, "empty": not is_object_HW.any(), "full": is_object_HW.all()}
    seen.counts += Counter([meaning, *(name for name, holds in marks.items() if holds)])
    if size == after and meaning == masks.GREY and data.startswith(b"\x89PNG"):
        return data
    return images.encode_png(masks.resize_mask(mask_HW, height=after[1], width=after[0]))


def _read(address: Address) -> bytes:
    try:
        return address.read()
    except OSError as error:
        reason = "too_large" if error.errno == errno.EFBIG else "unreadable"
        raise _Unusable(reason, error.strerror or str(error)) from error
