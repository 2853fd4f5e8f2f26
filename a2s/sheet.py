"""A contact sheet: photographs beside what the stages made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from a2s.data.images import decode, decode_mask
from a2s.data.keys import decode_key
from a2s.data.pairs import find_truths
from a2s.data.tar_index import Index
from a2s.rundir import atomic_write

Image = NDArray[np.uint8]

GAP_PX = 4
TITLE_PX = 22
PAPER = 255


def contact_sheet(
    rows: Sequence[Sequence[Image]], *, titles: Sequence[str], cell_px: int = 160
) -> Image:
    """Lay pictures out in a grid, each fitted into a square cell with its proportions kept.

    Shape: each picture HxW or HxWx3, uint8; result HxWx3, RGB.
    """
    assert rows, "a sheet needs a row"
    assert all(len(row) == len(titles) for row in rows), "a picture for every title"
    height = TITLE_PX + len(rows) * (cell_px + GAP_PX)
    sheet = np.full((height, len(titles) * (cell_px + GAP_PX) - GAP_PX, 3), PAPER, np.uint8)
    for column, title in enumerate(titles):
        left = column * (cell_px + GAP_PX)
        place = (left + 2, TITLE_PX - 7)
        cv2.putText(sheet, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        for number, row in enumerate(rows):
            top = TITLE_PX + number * (cell_px + GAP_PX)
            sheet[top : top + cell_px, left : left + cell_px] = _fitted(row[column], cell_px)
    return sheet


def write_sheet(
    path: Path,
    *,
    data: Path,
    maps: Path | None,
    labels: Path | None,
    preds: Path,
    truth: Path | None,
    max_rows: int = 8,
) -> bool:
    """Write a PNG of images spread over `data`: image, map, label, detector, truth.

    Columns whose folder is None are left out, and so are images that one of them lacks.
    False, and no file, when no image is left.
    """
    index = Index.load(data)
    columns: dict[str, Callable[[str], bytes | None]] = {}
    if maps is not None:
        columns["activation map"] = _files(maps)
    if labels is not None:
        columns["pseudo label"] = _labels(labels)
    columns["detector"] = _files(preds)
    if truth is not None:
        known = find_truths(truth)
        columns["truth"] = lambda key: known.locate(key).read() if key in known.keys else None

    rows: list[list[Image]] = []
    # More candidates than rows, because some may lack a column.
    for row in np.unique(np.linspace(0, len(index) - 1, 4 * max_rows).astype(int)):
        key = index.key(int(row))
        found = [read(key) for read in columns.values()]
        if all(data is not None for data in found):
            pictures = [decode_mask(data) for data in found if data is not None]
            rows.append([decode(index.read(int(row))), *pictures])
    if not rows:
        return False
    chosen = np.unique(np.linspace(0, len(rows) - 1, max_rows).astype(int))
    sheet = contact_sheet([rows[int(row)] for row in chosen], titles=["image", *columns])
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))
    assert done, "OpenCV could not encode a PNG"
    atomic_write(path, encoded.tobytes())
    return True


def _files(folder: Path) -> Callable[[str], bytes | None]:
    def read(key: str) -> bytes | None:
        path = folder / f"{decode_key(key)}.png"
        return path.read_bytes() if path.is_file() else None

    return read


def _labels(folder: Path) -> Callable[[str], bytes | None]:
    index = Index.load(folder)

    def read(key: str) -> bytes | None:
        row = int(index.rows_of([key])[0])
        return index.read(row) if row >= 0 else None

    return read


def _fitted(picture: Image, side_px: int) -> Image:
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Averaging keeps thin structures when a picture shrinks.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, size, interpolation=method)
    small = small if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)
    cell = np.full((side_px, side_px, 3), PAPER, np.uint8)
    top, left = (side_px - size[1]) // 2, (side_px - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = small
    return cell
