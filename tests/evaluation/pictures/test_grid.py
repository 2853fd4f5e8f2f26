"""Grid: position and content of cells, titles that are never cut off."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from grid_cells import is_empty, read_png, shows

from a2s.evaluation.pictures.grid import (
    CAPTION_PX,
    FRAME_PX,
    GAP_PX,
    ROW_TITLE_PX,
    TITLE_PX,
    Cell,
    cell_places,
    fitted,
    grid,
    write_png,
)

RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 256, (90, 200, 3)).astype(np.uint8)
TALL = RNG.integers(0, 256, (300, 80)).astype(np.uint8)


def test_plain_grid() -> None:
    rows = [[Cell(WIDE), Cell(TALL)], [Cell(TALL), Cell(WIDE)], [Cell(WIDE), Cell(WIDE)]]
    sheet = grid(rows, titles=["a", "b"])
    assert sheet.shape == (TITLE_PX + 3 * (160 + GAP_PX), 2 * 160 + GAP_PX, 3)
    places = cell_places(rows, titles=["a", "b"])
    assert places[0] == [(TITLE_PX, 0), (TITLE_PX, 160 + GAP_PX)]
    assert places[2][1] == (TITLE_PX + 2 * (160 + GAP_PX), 160 + GAP_PX)
    for row, row_places in zip(rows, places, strict=True):
        for cell, (top, left) in zip(row, row_places, strict=True):
            assert shows(sheet[top : top + 160, left : left + 160], cell.picture)


def test_a_picture_keeps_its_aspect_ratio_and_is_centred() -> None:
    cell = fitted(WIDE, 160)
    height = round(90 * 160 / 200)
    top = (160 - height) // 2
    small = cv2.resize(WIDE, (160, height), interpolation=cv2.INTER_AREA)
    assert (cell[top : top + height] == small).all()
    assert (cell[:top] == 232).all()
    assert (cell[top + height :] == 232).all()
    assert fitted(TALL, 40).shape == (40, 40, 3)


def test_captions_and_row_titles_take_space() -> None:
    rows = [[Cell(WIDE, "V = 0.1")], [Cell(WIDE)]]
    sheet = grid(rows, titles=["a"], row_titles=["first", "second"], note="A note.")
    places = cell_places(rows, titles=["a"], row_titles=["first", "second"])
    assert [left for ((_, left),) in places] == [ROW_TITLE_PX] * 2
    assert places[1][0][0] - places[0][0][0] == 160 + GAP_PX + CAPTION_PX
    top = places[0][0][0] + 160
    assert (sheet[top : top + CAPTION_PX, ROW_TITLE_PX:] < 128).any()
    assert (sheet[places[0][0][0] : top, :ROW_TITLE_PX] < 128).any()
    assert (sheet[-18:] < 200).any()


def test_frames_cover_the_border_of_the_picture() -> None:
    red = (205, 45, 45)
    square = RNG.integers(0, 256, (50, 50, 3)).astype(np.uint8)
    cell, plain = fitted(square, 80, frame=red), fitted(square, 80)
    inside = slice(FRAME_PX, -FRAME_PX)
    assert (cell[:FRAME_PX] == red).all()
    assert (cell[:, -FRAME_PX:] == red).all()
    assert (cell[inside, inside] == plain[inside, inside]).all()


def test_cells_without_a_picture() -> None:
    sheet = grid([[Cell(None, "truncated"), Cell()]], titles=["a", "b"])
    assert is_empty(sheet[TITLE_PX : TITLE_PX + 160, :160])
    assert (sheet[TITLE_PX:, 160:] == 255).all()


@pytest.mark.parametrize(
    ("title", "lines"),
    [
        ("image", 1),
        ("stage 2 with online label rectifying, after epoch 20", 3),
        ("averyveryveryverylongnamewithoutanyspaceinit_0123456789", 1),
    ],
)
def test_long_titles_are_wrapped_or_shortened_never_cut(title: str, lines: int) -> None:
    """No dark pixel touches the edge of the column."""
    sheet = grid([[Cell(TALL), Cell(TALL)]], titles=[title, ""], cell_px=120)
    ((top, left), (_, right)) = cell_places([[Cell(TALL)] * 2], titles=[title, ""], cell_px=120)[0]
    assert top == TITLE_PX + 14 * (lines - 1)
    assert (sheet[:top, left:120] < 128).any()
    assert (sheet[: top - 1, 120:right] == 255).all()
    assert (sheet[0] == 255).all()


def test_png_is_what_was_drawn(tmp_path) -> None:
    write_png(tmp_path / "new" / "x.png", WIDE)
    assert (read_png(tmp_path / "new" / "x.png") == WIDE).all()
