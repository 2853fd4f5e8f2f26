"""Write the labels of one chunk: the unit that is resumed.

A chunk's record is written last. Before its first file it leaves a mark, so that a file which is
there without the mark is known to be somebody else's.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from a2s.data.copies import copy_of, format_of
from a2s.data.images import MAX_PIXELS, BadImage, decode_mask
from a2s.data.index import Index
from a2s.data.packing import EXTENSIONS
from a2s.errors import ConfigError, DataError
from a2s.labels.export import hugging_face
from a2s.labels.export.formats import FORMATS
from a2s.labels.export.item import Item, Style
from a2s.labels.export.names import file_name
from a2s.labels.review import Decision
from a2s.storage import files
from a2s.storage.failures import Failure, failure

PARTS = ".parts"
"""Folder of records and marks, below the output folder."""
# Errors of a file system about one name; any other error ends the run.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ)


@dataclass(frozen=True)
class Sources:
    """Labels, their images, and what is known about each label. Shapes: N labels."""

    labels: Index
    data: Index
    data_row_N: npt.NDArray[np.int64]
    """Row of the image; -1 if the data has none."""
    orientation_N: npt.NDArray[np.int8]
    """EXIF orientation of the image."""
    quality_N: npt.NDArray[np.float32] | None
    no_object_N: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class ExportJob:
    """What all chunks of an export share."""

    sources: Sources
    out: Path
    format: str
    style: Style
    min_quality: float
    copies_images: bool
    num_chunks: int


@dataclass(frozen=True)
class Chunk:
    """Consecutive labels, and the decisions about them."""

    number: int
    rows: range
    decisions: Mapping[str, Decision]

    def __str__(self) -> str:
        return f"export: labels {self.rows.start:,} to {self.rows.stop - 1:,}"


@dataclass
class Record:
    """What a chunk has written."""

    num_labels: int = 0
    num_objects: int = 0
    num_converted: int = 0
    """Images that were turned upright, or made JPEGs."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def record_path(out: Path, number: int) -> Path:
    """The record of a chunk."""
    return out / PARTS / f"{number:06d}.json"


def mark_path(out: Path, name: str) -> Path:
    """The mark of what was begun: the number of a chunk, or `documents`."""
    return out / PARTS / f"{name}.begun"


def export_chunk(chunk: Chunk, job: ExportJob) -> Record:
    """Write the files of a chunk and its record; labels that fail are listed, not raised.

    Raises:
        ConfigError: a file that would be written is there already, and is somebody else's.
        StorageError: labels or images cannot be reached.
    """
    record = Record()
    mark = mark_path(job.out, f"{chunk.number:06d}")
    is_new = not files.is_there(mark)
    with contextlib.ExitStack() as stack:
        table = None
        if FORMATS[job.format].has_tables:
            path = job.out / hugging_face.file_of(chunk.number, job.num_chunks)
            if is_new:
                refuse_foreign([path], job.out)
                files.atomic_write(mark, "")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(files.atomic_path(path))
            table = stack.enter_context(hugging_face.Table(temporary, job.style))
        elif is_new:
            refuse_foreign(_targets(chunk, job), job.out)
            files.atomic_write(mark, "")
        for row in chunk.rows:
            key = job.sources.labels.key(row)
            try:
                _export(row, key, chunk.decisions.get(key), job, record, table)
            except BadImage as error:
                record.failures.append(failure(key, key, error.reason, error.detail))
            except DataError as error:
                record.failures.append(failure(key, key, "damaged", str(error)))
            except OSError as error:
                if error.errno not in _NAME_ERRORS:
                    raise
                detail = f"{error.strerror}: {error.filename}"
                record.failures.append(failure(key, key, "unwritable_name", detail))
    files.write_json(record_path(job.out, chunk.number), vars(record))
    return record


def refuse_foreign(paths: list[Path], out: Path) -> None:
    """Raise ConfigError if one of the files that would be written is there already."""
    there = [
        path
        for path in paths
        if (os.path.lexists(path) or files.is_there(path)) and not path.is_dir()
    ]
    if there:
        some = ", ".join(str(path.relative_to(out)) for path in there[:3])
        raise ConfigError(
            f"export: {out} holds {len(there):,} files that this job did not write and would "
            f"replace ({some}{', …' if len(there) > 3 else ''}); use another --out"
        )


def _targets(chunk: Chunk, job: ExportJob) -> list[Path]:
    """Files that the labels of a chunk may become, whatever the labels are."""
    form = FORMATS[job.format]
    found = []
    for row in chunk.rows:
        name = form.safe_path(file_name(job.sources.labels.key(row)))
        blank = Item(row, "", name, name, np.zeros((1, 1), np.bool_), None, None, "none")
        found += [job.out / path for path in form.encode(blank, job.style).files]
        if form.images and job.copies_images:
            suffixes = ["jpg"] if form.as_jpeg else sorted({*EXTENSIONS.values()})
            found += [job.out / form.images / f"{name}.{suffix}" for suffix in suffixes]
    return found


def _export(
    row: int,
    key: str,
    decision: Decision | None,
    job: ExportJob,
    record: Record,
    table: hugging_face.Table | None,
) -> None:
    """Write one label."""
    form, sources = FORMATS[job.format], job.sources
    quality = None if sources.quality_N is None else round(float(sources.quality_N[row]), 4)
    if decision is not None and decision.verdict == "rejected":
        record.left_out.append({"key": key, "reason": "rejected"})
        return
    # A person's decision stands above the estimate.
    if decision is None and quality is not None and quality < job.min_quality:
        record.left_out.append({"key": key, "reason": "low_quality", "quality": quality})
        return
    mask_HW = _mask(row, decision, sources)
    data_row = int(sources.data_row_N[row])
    if data_row < 0:
        raise BadImage("no_image", f"{sources.data.folder} has no image of this key")
    size = (int(sources.data.height_N[data_row]), int(sources.data.width_N[data_row]))
    if mask_HW.shape != size:
        raise BadImage(
            "wrong_size",
            f"the label has {mask_HW.shape[1]} x {mask_HW.shape[0]} pixels, the image "
            f"{size[1]} x {size[0]}",
        )
    packed = sources.data.read(data_row)
    copies = job.copies_images and (form.images is not None or table is not None)
    if copies:
        image, extension = copy_of(
            packed,
            orientation=int(sources.orientation_N[row]),
            as_jpeg=form.as_jpeg,
            max_pixels=max(MAX_PIXELS, sources.data.pixels(data_row)),
        )
    else:
        image, extension = packed, EXTENSIONS[format_of(packed)]
    name = form.safe_path(file_name(key))
    item = Item(
        number=row,
        key=key,
        name=name,
        image=f"{name}.{extension}",
        mask_HW=mask_HW,
        # A person's mask has no estimate.
        quality=None if decision is not None and decision.verdict == "fixed" else quality,
        no_object=None if sources.no_object_N is None else bool(sources.no_object_N[row]),
        review="none" if decision is None else decision.verdict,
    )
    encoded = form.encode(item, job.style)
    if table is not None:
        table.add(item, image)
    elif copies and form.images:
        _write(job.out / form.images / item.image, image)
    for path, content in encoded.files.items():
        _write(job.out / path, content)
    record.num_labels += 1
    record.num_objects += len(item.objects(job.style))
    record.num_converted += image is not packed
    for name, lines in {**encoded.lines, "labels": list(_described(item))}.items():
        record.lines.setdefault(name, []).extend(lines)


def _described(item: Item) -> Iterator[str]:
    """The label's line in the list that every export has."""
    yield json.dumps({"key": item.key, "image": item.image, **item.facts})


def _mask(row: int, decision: Decision | None, sources: Sources) -> npt.NDArray[np.bool_]:
    png = None if decision is None else decision.mask_png
    data = sources.labels.read(row) if png is None else png
    pixels = max(MAX_PIXELS, sources.labels.pixels(row))
    return np.asarray(decode_mask(data, max_pixels=pixels) > 127)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(path, content)
