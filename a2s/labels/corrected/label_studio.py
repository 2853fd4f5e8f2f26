"""Corrected masks in a JSON export of Label Studio: brush strokes of the last annotation."""

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
from a2s.labels.shapes import brush
from a2s.labels.shapes.regions import Bool


def read(tasks: list[Any]) -> Iterator[Found]:
    """The tasks of an export that somebody annotated or may have.

    Raises:
        DataError: a task is no record, as in the export JSON-MIN.
    """
    for number, task in enumerate(tasks):
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict):
            raise DataError(
                f"task {number} has no data; export from Label Studio as JSON (not JSON-MIN)"
            )
        data = task["data"]
        keys = candidates(data.get("key"), data.get("image"))
        image = data.get("image")
        instead = f"task {task.get('id', number)!r}"
        yield Found(shown(image, instead), keys, functools.partial(_mask, task))


def _mask(task: dict[str, Any], height: int, width: int) -> Bool:
    annotations = task.get("annotations")
    usable = [
        one
        for one in (annotations if isinstance(annotations, list) else [])
        if isinstance(one, dict) and not one.get("was_cancelled")
    ]
    if not usable:
        raise Unusable("no_annotation", "nobody has annotated it yet")
    result = max(usable, key=_time).get("result")
    if not isinstance(result, list) or not all(isinstance(one, dict) for one in result):
        raise Unusable("damaged", "its annotation has no result")
    check_number(len(result))
    # An annotation without a stroke says that nothing stands out.
    return union((_stroke(one, height, width) for one in result), height=height, width=width)


def _time(annotation: dict[str, Any]) -> str:
    """When an annotation was changed; of equal times the first counts."""
    time = annotation.get("updated_at")
    return time if isinstance(time, str) else ""


def _stroke(one: dict[str, Any], height: int, width: int) -> Bool:
    """The mask of one brush stroke.

    Raises:
        Unusable: it is no brush stroke, of another size, or damaged.
    """
    value = one.get("value")
    if one.get("type") != "brushlabels" or not isinstance(value, dict):
        raise Unusable("unsupported_shape", f"it has a {one.get('type')!r}, not only brushlabels")
    if one.get("image_rotation", 0) != 0:
        raise Unusable("unsupported_shape", "it was rotated in Label Studio")
    check_size(size_of(one, height="original_height", width="original_width"), (height, width))
    stream = value.get("rle")
    if value.get("format") != "rle" or not isinstance(stream, list):
        raise Unusable("damaged", "a brush stroke has no rle")
    try:
        return brush.decode(stream, height=height, width=width)
    except ValueError as error:
        raise Unusable("damaged", str(error)) from None
