"""Contact sheet: photographs with their activation map, pseudo label, prediction and truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from a2s.data.arrays import U8
from a2s.data.images import BadImage, decode, decode_mask
from a2s.data.index import Index
from a2s.data.keys import decode_key
from a2s.data.origin import refuse_folders_of_other_images
from a2s.errors import DataError
from a2s.evaluation.pairs import find_truths, spread
from a2s.evaluation.pictures.grid import Cell, grid, write_png
from a2s.storage.files import is_there, read_bytes


def write_sheet(
    path: Path,
    *,
    data: Path,
    maps: Path | None,
    labels: Path | None,
    preds: Path,
    truth: Path | None,
    mask_pattern: str | None = None,
    max_rows: int = 8,
) -> bool:
    """Write a PNG of images spread over `data`: image, map, label, detector, truth.

    A column is left out if its folder is None, an image if it is missing in one of the columns.
    Returns False and leaves no file if no image is left.
    Raises: DataError if a folder of shards is unfinished, the labels are of other images, or a map
    is damaged.
    """
    index = Index.load(data)
    columns: dict[str, Callable[[str], U8 | None]] = {}
    if maps is not None:
        columns["activation map"] = _files(maps)
    if labels is not None:
        refuse_folders_of_other_images(labels, data, command="run")
        columns["pseudo label"] = _labels(labels)
    columns["detector"] = _files(preds)
    if truth is not None:
        known = spread(find_truths(truth, mask_pattern), index.keys.to_pylist())
        columns["truth"] = lambda key: known.picture(key) if key in known.keys else None

    rows: list[list[Cell]] = []
    # More candidates than rows, because some may lack a column.
    for row in np.unique(np.linspace(0, len(index) - 1, 4 * max_rows).astype(int)):
        key = index.key(int(row))
        found = [read(key) for read in columns.values()]
        if all(picture is not None for picture in found):
            rows.append([Cell(picture) for picture in (decode(index.read(int(row))), *found)])
    if not rows:
        # An old picture must not pass for one of these images.
        path.unlink(missing_ok=True)
        return False
    chosen = np.unique(np.linspace(0, len(rows) - 1, max_rows).astype(int))
    write_png(path, grid([rows[int(row)] for row in chosen], titles=["image", *columns]))
    return True


def _files(folder: Path) -> Callable[[str], U8 | None]:
    def read(key: str) -> U8 | None:
        path = folder / f"{decode_key(key)}.png"
        if not is_there(path):
            return None
        try:
            return decode_mask(read_bytes(path))
        except BadImage as error:
            raise DataError(
                f"{path}: cannot be read ({error}); delete it, and repeat the command that made it"
            ) from error

    return read


def _labels(folder: Path) -> Callable[[str], U8 | None]:
    index = Index.load(folder)

    def read(key: str) -> U8 | None:
        row = int(index.rows_of([key])[0])
        return decode_mask(index.read(row)) if row >= 0 else None

    return read
