"""One label and its image, made ready for a format; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from a2s.data.copies import copy_of, format_of
from a2s.data.images import MAX_PIXELS, BadImage, decode_mask
from a2s.data.index import Index
from a2s.data.packing import EXTENSIONS
from a2s.labels.export.formats import FORMATS
from a2s.labels.export.item import Encoded, Item, Style
from a2s.labels.export.names import file_name
from a2s.labels.review import Decision
from a2s.storage.failures import Failure
from a2s.storage.written import Written


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


@dataclass
class Record:
    """What a chunk has written."""

    num_labels: int = 0
    num_objects: int = 0
    num_converted: int = 0
    """Images that were turned upright, or made JPEGs."""
    files: list[Written] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Made(NamedTuple):
    """A label and its image in the other program's format."""

    item: Item
    image: bytes
    is_converted: bool
    """Whether the image was turned upright or made a JPEG."""
    encoded: Encoded


def made(
    row: int, key: str, decision: Decision | None, job: ExportJob, record: Record
) -> Made | None:
    """Convert one label; None if it is left out, which is noted in `record`.

    Raises:
        DataError: label or image are damaged, or no pair.
    """
    form, sources = FORMATS[job.format], job.sources
    quality = None if sources.quality_N is None else round(float(sources.quality_N[row]), 4)
    if decision is not None and decision.verdict == "rejected":
        record.left_out.append({"key": key, "reason": "rejected"})
        return None
    # A person's decision stands above the estimate.
    if decision is None and quality is not None and quality < job.min_quality:
        record.left_out.append({"key": key, "reason": "low_quality", "quality": quality})
        return None
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
    copies = job.copies_images and (form.images is not None or form.has_tables)
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
    return Made(item, image, image is not packed, form.encode(item, job.style))


def described(item: Item) -> Iterator[str]:
    """The label's line in the list that every export has."""
    yield json.dumps({"key": item.key, "image": item.image, **item.facts})


def _mask(row: int, decision: Decision | None, sources: Sources) -> npt.NDArray[np.bool_]:
    png = None if decision is None else decision.mask_png
    data = sources.labels.read(row) if png is None else png
    pixels = max(MAX_PIXELS, sources.labels.pixels(row))
    return np.asarray(decode_mask(data, max_pixels=pixels) > 127)
