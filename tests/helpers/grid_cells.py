"""Cells of a rendered grid of pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from a2s.evaluation.pictures.grid import Cell, cell_places, fitted

SIDE_PX = 160


def read_png(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]


def cells_of(
    sheet: np.ndarray, *, rows: int, titles: int, captions: bool = False, row_titles: bool = False
) -> list[list[np.ndarray]]:
    """Pixels of every cell of a sheet with one-line titles."""
    shape = [[Cell(np.zeros((1, 1), np.uint8), "x" if captions else "")] * titles] * rows
    names = ["x"] * rows if row_titles else []
    places = cell_places(shape, titles=["x"] * titles, row_titles=names)
    return [
        [sheet[top : top + SIDE_PX, left : left + SIDE_PX] for top, left in row] for row in places
    ]


def shows(
    cell: np.ndarray, picture: np.ndarray, *, frame: tuple[int, int, int] | None = None
) -> bool:
    return bool((cell == fitted(picture, SIDE_PX, frame=frame)).all())


def is_empty(cell: np.ndarray) -> bool:
    """Whether a cell shows the placeholder: grey frame, light-grey ground, a word."""
    return bool((cell[0] == 120).all() and (cell[8, 8] == 232).all() and (cell < 200).any())
