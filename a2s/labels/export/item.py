"""What every format is made of: one label with its image, and how it is to be written. Pure."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from PIL import Image

from a2s.labels.shapes.regions import Bool, Region, regions

CATEGORY = "salient"
"""The only class."""


@dataclass(frozen=True)
class Style:
    """Choices that hold for a whole export."""

    polygons: bool = False
    """Outlines instead of run lengths, where a format has both."""
    instances: bool = False
    """Every connected component is an object of its own."""
    image_root: str = ""
    """What stands before the path of an image in Label Studio's tasks."""


@dataclass(frozen=True)
class Item:
    """One label.

    Shape: mask_HW bool, the image's own size.
    """

    number: int
    """Row among the labels, from 0."""
    key: str
    name: str
    """Path of the image without suffix, safe on every system."""
    image: str
    """The same with its suffix."""
    mask_HW: Bool
    quality: float | None
    """Expected F-measure, 0 to 1; None if nobody has estimated it."""
    no_object: bool | None
    review: str
    """`none`, `accepted` or `fixed`."""

    @property
    def height(self) -> int:
        """Height of the image in pixels."""
        return int(self.mask_HW.shape[0])

    @property
    def width(self) -> int:
        """Width of the image in pixels."""
        return int(self.mask_HW.shape[1])

    @property
    def facts(self) -> dict[str, Any]:
        """What is known about the label, for formats that have room for it."""
        known = {"quality": self.quality, "no_object": self.no_object}
        return {name: value for name, value in known.items() if value is not None} | {
            "review": self.review
        }

    def objects(self, style: Style) -> list[Region]:
        """The objects of the label."""
        return regions(self.mask_HW, instances=style.instances)


@dataclass
class Encoded:
    """A label in some format: files of its own, and lines of documents about many labels."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Bytes by path below the output folder."""
    lines: dict[str, list[str]] = field(default_factory=dict)
    """Lines by a name that the format's documents know."""


class Lines(Protocol):
    """The lines of all labels, in order, read again and again from disk."""

    num_labels: int

    def of(self, name: str) -> Iterator[str]:
        """All lines of a name."""

    def by_part(self, name: str) -> Iterator[list[str]]:
        """The lines of a name, one list for each part of the export."""


Document = tuple[str, Iterable[str]]
"""Path below the output folder, and the pieces of its text."""


def json_list(lines: Iterable[str]) -> Iterator[str]:
    """A JSON list of values that are JSON already."""
    before = "[\n"
    for line in lines:
        yield before + line
        before = ",\n"
    yield "[]" if before == "[\n" else "\n]"


def mask_png(item: Item, style: Style) -> bytes:
    """A grey PNG: 0 and 255, or with `instances` the number of the object from 1 on."""
    if not style.instances:
        return png(Image.fromarray(item.mask_HW.astype(np.uint8) * np.uint8(255)))
    return png(Image.fromarray(object_numbers(item, style)))


def object_numbers(item: Item, style: Style) -> np.ndarray[Any, Any]:
    """The number of the object at every pixel, 0 for none.

    Shape: H W, uint8, or uint16 for many objects.
    """
    objects = item.objects(style)
    numbers_HW = np.zeros(item.mask_HW.shape, np.uint8 if len(objects) < 256 else np.uint16)
    for number, one in enumerate(objects, start=1):
        x, y, width, height = one.box
        numbers_HW[y : y + height, x : x + width][one.inside_hw] = number
    return numbers_HW


def png(image: Image.Image) -> bytes:
    """Encode a picture; the same pixels give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
