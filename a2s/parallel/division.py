"""Divide an item that kills its process, until the image that does it is found.

The caller says how its items are divided. Without Ray a kill ends the whole command, so this is for
tasks only. Generic: T an item, R its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Again(Generic[T]):
    """What `Division.merge` returns if the work is still to be done, now on this item."""

    item: T


@dataclass(frozen=True)
class Division(Generic[T, R]):
    """How items of several images are divided, and what stands for an image that is given up."""

    split: Callable[[T], Sequence[T]]
    """Parts of an item; none if it is one image."""
    merge: Callable[[T, list[R]], R | Again[T]]
    """The result of an item from those of its parts."""
    give_up: Callable[[T, str, str], R]
    """The result of an item of one image; reason (one word) and detail are for its `failure`."""


def halves(items: Sequence[T]) -> list[Sequence[T]]:
    """Both halves of a sequence; none of a sequence with one item."""
    middle = len(items) // 2
    return [items[:middle], items[middle:]] if middle else []


class Item:
    """An item of `map_items` on its way; `whole` is the item that it is a part of."""

    def __init__(self, value: Any, *, whole: Item | None = None) -> None:
        self.value = value
        self.whole = whole
        self.parts: list[Item] = []
        self.attempts = 0
        """Tasks that work on it now."""
        self.copied = False
        self.is_alone = False
        """Whether it shall run, or runs, with nothing beside it."""
        self.is_done = False
        self.result: Any = None
        self.losses: dict[str, int] = {}
        """How often its tasks were lost, by kind."""

    def is_suspect(self, kind: str) -> bool:
        """Whether its work may be what ends its processes: twice, or once in a part."""
        again = self.whole is not None or self.losses[kind] > 1
        return again and kind in ("crash", "timeout") and not self.parts


def divide(item: Item, division: Division[Any, Any]) -> list[Item]:
    """Parts of an item; none if it is one image."""
    item.parts = [Item(value, whole=item) for value in division.split(item.value)]
    return item.parts
