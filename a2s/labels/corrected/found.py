"""What a file of another program says about one image, before it is compared with a label."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from a2s.labels.export.names import possible_keys
from a2s.labels.shapes.regions import Bool
from a2s.storage.parsing import printable

MAX_OBJECTS = 10_000
"""Objects of one image."""


_MAX_SHOWN = 200


class Unusable(ValueError):
    """Why one image of the file cannot be used: a word, and what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Found:
    """One image of the file."""

    shown: str
    """How the file names it, for messages."""
    keys: tuple[str, ...]
    """Keys that it may have, the likeliest first."""
    mask: Callable[[int, int], Bool]
    """Its corrected mask, given the label's height and width.

    Raises Unusable.
    """


def candidates(key: Any, path: Any) -> tuple[str, ...]:
    """Keys that an image may have: the one that a2s exported with it, else those of its path."""
    if isinstance(key, str):
        return (key,) if key.isascii() else ()
    return tuple(dict.fromkeys(possible_keys(path))) if isinstance(path, str) else ()


def shown(name: Any, instead: str) -> str:
    """How messages name an image: its name in the file, or something instead."""
    return printable(name)[:_MAX_SHOWN] if isinstance(name, str) else instead


def size_of(record: Mapping[str, Any], *, height: str, width: str) -> tuple[int, int]:
    """Height and width that a record has under these names.

    Raises:
        Unusable: they are no whole numbers.
    """
    sides = record.get(height), record.get(width)
    if type(sides[0]) is not int or type(sides[1]) is not int:
        raise Unusable("damaged", f"{height} and {width} are no whole numbers")
    return sides[0], sides[1]


def union(masks: Iterator[Bool], *, height: int, width: int) -> Bool:
    """Pixels inside any of some masks. Shape: height width."""
    total_HW = np.zeros((height, width), np.bool_)
    for mask_HW in masks:
        total_HW |= mask_HW
    return total_HW


def check_number(num_objects: int) -> None:
    """Raise Unusable if an image has so many objects that somebody only wants to keep us busy."""
    if num_objects > MAX_OBJECTS:
        raise Unusable("too_many_objects", f"{num_objects:,} are over the limit of {MAX_OBJECTS:,}")


def check_size(there: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Raise Unusable unless two sizes (height, width) are the same."""
    if there != wanted:
        raise Unusable(
            "wrong_size",
            f"it has {there[1]} x {there[0]} pixels, its label {wanted[1]} x {wanted[0]}",
        )
