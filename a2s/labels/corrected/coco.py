"""Corrected masks in a COCO file: run lengths, compressed or not, and polygons."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from a2s.errors import DataError
from a2s.labels.corrected.found import (
    Found,
    Unusable,
    candidates,
    check_number,
    check_size,
    shown,
    size_of,
    union,
)
from a2s.labels.export.item import CATEGORY
from a2s.labels.shapes.polygons import polygon_mask
from a2s.labels.shapes.regions import Bool
from a2s.labels.shapes.run_lengths import coco_mask, decompress


def read(values: dict[str, Any]) -> Iterator[Found]:
    """The images of a file.

    The mask of an image is all its objects of the category `salient`; all its objects if the file
    has no such category.

    Raises:
        DataError: `images` or `annotations` are no lists of records.
    """
    images, annotations = (_records(values, name) for name in ("images", "annotations"))
    named = [one for one in _records(values, "categories") if one.get("name") == CATEGORY]
    chosen = [one.get("id") for one in named]
    by_image: dict[Any, list[dict[str, Any]]] = {}
    for one in annotations:
        image = one.get("image_id")
        if not isinstance(image, int | str):
            raise DataError(f"annotation {one.get('id')!r} has no image_id")
        if not chosen or one.get("category_id") in chosen:
            by_image.setdefault(image, []).append(one)
    for image in images:
        number = image.get("id")
        own = by_image.get(number, []) if isinstance(number, int | str) else []
        name = image.get("file_name")
        keys = candidates(image.get("key"), name)
        yield Found(shown(name, f"image {number!r}"), keys, functools.partial(_mask, image, own))


def _records(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = values.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise DataError(f"its {name} are no list of records")
    return found


def _mask(
    image: dict[str, Any], annotations: list[dict[str, Any]], height: int, width: int
) -> Bool:
    check_size(size_of(image, height="height", width="width"), (height, width))
    if not annotations:
        # Deleted, or never drawn: nothing tells.
        raise Unusable("no_annotation", "it has no object; reject it in a2s review")
    shapes = [one.get("segmentation") for one in annotations]
    check_number(sum(len(shape) if isinstance(shape, list) else 1 for shape in shapes))
    masks = (_object(shape, height, width) for shape in shapes)
    try:
        return union(masks, height=height, width=width)
    except ValueError as error:
        raise Unusable(getattr(error, "reason", "damaged"), str(error)) from None


def _object(shape: Any, height: int, width: int) -> Bool:
    """The mask of one object.

    Raises:
        ValueError: it is damaged, or a box only.
    """
    if isinstance(shape, list):
        if not shape:
            # A box alone says nothing about the pixels in it.
            raise Unusable("unsupported_shape", "an object has a box only, no mask or polygon")
        polygons = (polygon_mask(points, height=height, width=width) for points in shape)
        return union(polygons, height=height, width=width)
    if not isinstance(shape, dict):
        raise ValueError("an object has neither run lengths nor polygons")
    if shape.get("size") != [height, width]:
        raise Unusable("wrong_size", f"an object is of size {shape.get('size')}")
    counts = shape.get("counts")
    if isinstance(counts, str):
        # No image has more runs than pixels, and one of zero length.
        if len(counts) > 8 * (height * width + 1):
            raise ValueError("the run lengths are longer than the image")
        counts = decompress(counts)
    if not isinstance(counts, list):
        raise ValueError("an object has no run lengths")
    return coco_mask(counts, height=height, width=width)
