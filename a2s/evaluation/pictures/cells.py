"""Cells of a figure: read pictures by key from folders of files or shards, and write the grid.

A missing or damaged picture becomes an empty cell with the reason; `Drawn` lists these cells.
Shape suffixes: H W an image's own size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import U8
from a2s.data.images import BadImage, decode, decode_mask
from a2s.data.keys import decode_key
from a2s.errors import DataError
from a2s.evaluation.pairs import PictureSet
from a2s.evaluation.pictures.grid import Cell, grid, write_png
from a2s.storage.files import is_there, read_bytes

NUM_IMAGES = 8
_NAMED_CELLS = 10
Size = tuple[int, int]


class Drawn(NamedTuple):
    """A written figure and its empty cells, each as `column, row: reason`."""

    path: Path
    empty: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.empty:
            return str(self.path)
        more = len(self.empty) - _NAMED_CELLS
        named = "; ".join(self.empty[:_NAMED_CELLS]) + (f"; and {more} more" if more > 0 else "")
        return f"{self.path} ({len(self.empty)} empty cells: {named})"


def choose(
    keys: Collection[str], *, num_images: int, given: Sequence[str] | None = None
) -> list[str]:
    """Choose images: the `given` keys, or `num_images` spread evenly over the sorted keys.

    Raises:
        DataError: a given key is not among `keys`.
    """
    assert num_images >= 1, "a figure shows an image"
    if given is not None:
        known = frozenset(keys)
        unknown = [key for key in given if key not in known]
        if unknown:
            raise DataError(
                f"figure: there is no image with the key {unknown[0]}; keys look like {min(known)}"
            )
        return list(given)
    ordered = sorted(keys)
    places = np.linspace(0, len(ordered) - 1, min(num_images, len(ordered)))
    return [ordered[int(place)] for place in places.round()]


def image_cell(images: PictureSet, key: str) -> Cell:
    """Read a photograph into a cell."""
    try:
        return Cell(decode(images.locate(key).read()))
    except DataError as error:
        return Cell(None, _reason(error))


def map_cell(maps: PictureSet, key: str, *, like: Cell) -> Cell:
    """Read a map, label or truth into a cell, resized to the size of its image `like`."""
    if key not in maps.keys:
        return Cell(None, "missing")
    try:
        picture_HW = maps.picture(key)
    except DataError as error:
        return Cell(None, _reason(error))
    if like.picture is None:
        return Cell(picture_HW)
    return Cell(resized(picture_HW, (like.picture.shape[0], like.picture.shape[1])))


def file_cell(folder: Path, key: str, *, suffix: str) -> Cell:
    """Read the map in the file `KEY` + `suffix` of a folder into a cell."""
    path = folder / f"{decode_key(key)}{suffix}"
    if not is_there(path):
        return Cell(None, "missing")
    try:
        return Cell(decode_mask(read_bytes(path)))
    except DataError as error:
        return Cell(None, _reason(error))


def grey(values_hw: NDArray[np.floating], size: Size) -> U8:
    """Stretch a map to the full grey range and resize it.

    Shape: [h, w] -> [*size]
    """
    values_HW = resized(normalised(values_hw).astype(np.float32), size)
    picture_HW: U8 = np.rint(values_HW.clip(0, 1) * 255).astype(np.uint8)
    return picture_HW


def coloured(values_hw: NDArray[np.floating], size: Size) -> U8:
    """Do the same in colours from blue to yellow, for maps without a known foreground side.

    Shape: [h, w] -> [*size, 3], RGB
    """
    bgr_HW3 = cv2.applyColorMap(grey(values_hw, size), cv2.COLORMAP_VIRIDIS)
    return np.asarray(bgr_HW3[..., ::-1], dtype=np.uint8)


def resized(values_hw: NDArray[Any], size: Size) -> NDArray[Any]:
    """Resize bilinearly to (height, width). Shape: [h, w] -> [*size]."""
    if values_hw.shape == size:
        return values_hw
    return np.asarray(cv2.resize(values_hw, (size[1], size[0]), interpolation=cv2.INTER_LINEAR))


def write_grid(
    path: Path,
    rows: Sequence[Sequence[Cell]],
    *,
    titles: Sequence[str],
    row_names: Sequence[str],
    row_titles: Sequence[str] = (),
    note: str = "",
) -> Drawn:
    """Write a grid as PNG; `row_names` identify rows in the list of empty cells."""
    empty = [
        f"{title}, {name}: {cell.caption}"
        for row, name in zip(rows, row_names, strict=True)
        for cell, title in zip(row, titles, strict=True)
        if cell.picture is None and cell.caption
    ]
    write_png(path, grid(rows, titles=titles, row_titles=row_titles, note=note))
    return Drawn(path, tuple(empty))


def _reason(error: DataError) -> str:
    return error.reason if isinstance(error, BadImage) else "damaged"


Map = NDArray[np.floating[Any]]


def normalised(values: Map) -> NDArray[np.float64]:
    """Stretch a map to 0..1; a flat map becomes 0.

    M and theta give the same result, because they differ by a constant.

    Range: 0..1
    """
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape)
    stretched: NDArray[np.float64] = (values.astype(np.float64) - low) / (high - low)
    return stretched
