"""Grid of pictures: rows and columns of equal cells, with titles that are never cut off.

Shape suffixes: H W the sheet's size.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from a2s.data.arrays import U8
from a2s.storage.files import atomic_write

RGB = tuple[int, int, int]

GAP_PX = 4
TITLE_PX = 22
CAPTION_PX = 17
ROW_TITLE_PX = 108
FRAME_PX = 4
_LINE_PX = 14
_FONT_PX = 12
_PAGE: RGB = (255, 255, 255)
_PADDING: RGB = (232, 232, 232)
"""Fills a cell around its picture: neither the black nor the white of a mask."""
_EDGE: RGB = (200, 200, 200)
_GREY: RGB = (120, 120, 120)
_BLACK: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Cell:
    """A picture (HxW or HxWx3) with a caption below it; `frame` colours its border.

    Without a picture the caption gives the reason; without both the cell is blank.
    """

    picture: U8 | None = None
    caption: str = ""
    frame: RGB | None = None


def grid(
    rows: Sequence[Sequence[Cell]],
    *,
    titles: Sequence[str],
    row_titles: Sequence[str] = (),
    note: str = "",
    cell_px: int = 160,
) -> U8:
    """Draw rows of cells below the column titles; pictures keep their aspect ratio.

    Shape: [H, W, 3], RGB; for the positions of the cells see `cell_places`
    """
    assert rows, "a grid needs a row"
    assert all(len(row) == len(titles) for row in rows), "a cell for every title"
    assert len(row_titles) in (0, len(rows)), "a title for every row, or none"
    heads = [_wrapped(title, cell_px) for title in titles]
    places = cell_places(rows, titles=titles, row_titles=row_titles, cell_px=cell_px)
    caption_px = _caption_px(rows)
    width = places[0][-1][1] + cell_px
    foot = _wrapped(note, width) if note else []
    bottom = places[-1][0][0] + cell_px + GAP_PX + caption_px
    height = bottom + (len(foot) * _LINE_PX + GAP_PX if foot else 0)
    sheet = Pillow.new("RGB", (width, height), _PAGE)
    draw = ImageDraw.Draw(sheet)
    head_px = places[0][0][0]
    for head, (_, left) in zip(heads, places[0], strict=True):
        top = head_px - 4 - _LINE_PX * len(head)
        _write(draw, head, left=left, top=top, width=cell_px)
    for number, (row, row_places) in enumerate(zip(rows, places, strict=True)):
        for cell, (top, left) in zip(row, row_places, strict=True):
            if cell.picture is not None:
                # An edge between the cells: many masks are white at their border, like the page.
                around = (left - 1, top - 1, left + cell_px, top + cell_px)
                draw.rectangle(around, outline=_EDGE)
            sheet.paste(Pillow.fromarray(_drawn(cell, cell_px)), (left, top))
            if cell.picture is not None and cell.caption:
                caption = [_shortened(cell.caption, cell_px)]
                _write(draw, caption, left=left, top=top + cell_px + 1, width=cell_px)
        if row_titles:
            lines = _wrapped(row_titles[number], ROW_TITLE_PX - GAP_PX)
            middle = row_places[0][0] + (cell_px - _LINE_PX * len(lines)) // 2
            _write(draw, lines, left=0, top=middle, width=ROW_TITLE_PX - GAP_PX)
    _write(draw, foot, left=0, top=bottom, width=width, colour=_GREY)
    return np.asarray(sheet)


def cell_places(
    rows: Sequence[Sequence[Cell]],
    *,
    titles: Sequence[str],
    row_titles: Sequence[str] = (),
    cell_px: int = 160,
) -> list[list[tuple[int, int]]]:
    """Return the top and left pixel of every cell that `grid` draws for the same arguments."""
    num_lines = max(len(_wrapped(title, cell_px)) for title in titles)
    head_px = TITLE_PX + _LINE_PX * (num_lines - 1)
    first_px = ROW_TITLE_PX if row_titles else 0
    step_px = cell_px + GAP_PX
    return [
        [
            (head_px + row * (step_px + _caption_px(rows)), first_px + column * step_px)
            for column in range(len(titles))
        ]
        for row in range(len(rows))
    ]


def fitted(picture: U8, side_px: int, *, frame: RGB | None = None) -> U8:
    """Fit a picture into a square, keeping its aspect ratio; a frame covers its border pixels.

    Shape: HxW or HxWx3 -> [side_px, side_px, 3]
    """
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Averaging keeps thin structures when a picture shrinks.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(picture, size, interpolation=method)
    small = small if small.ndim == 3 else np.repeat(small[..., None], 3, axis=2)
    if frame is not None:
        framed = np.full_like(small, frame)
        inside = (slice(FRAME_PX, -FRAME_PX), slice(FRAME_PX, -FRAME_PX))
        framed[inside] = small[inside]
        small = framed
    cell = np.full((side_px, side_px, 3), _PADDING, np.uint8)
    top, left = (side_px - size[1]) // 2, (side_px - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = small
    return cell


def write_png(path: Path, picture: U8) -> None:
    """Write an RGB picture as PNG atomically; create the folder if needed."""
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    assert done, "OpenCV could not encode a PNG"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, encoded.tobytes())


def _caption_px(rows: Sequence[Sequence[Cell]]) -> int:
    captioned = any(cell.caption and cell.picture is not None for row in rows for cell in row)
    return CAPTION_PX if captioned else 0


def _drawn(cell: Cell, side_px: int) -> U8:
    if cell.picture is None:
        blank = np.full((side_px, side_px, 3), _PAGE, np.uint8)
        return _empty(cell.caption, side_px) if cell.caption else blank
    return fitted(cell.picture, side_px, frame=cell.frame)


def _empty(reason: str, side_px: int) -> U8:
    square = Pillow.new("RGB", (side_px, side_px), _PADDING)
    draw = ImageDraw.Draw(square)
    draw.rectangle((0, 0, side_px - 1, side_px - 1), outline=_GREY)
    lines = _wrapped(reason, side_px - 8)
    top = (side_px - _LINE_PX * len(lines)) // 2
    for number, line in enumerate(lines):
        left = (side_px - _font().getlength(line)) / 2
        draw.text((left, top + number * _LINE_PX), line, font=_font(), fill=_GREY)
    return np.array(square)


def _write(
    draw: ImageDraw.ImageDraw,
    lines: Sequence[str],
    *,
    left: int,
    top: int,
    width: int,
    colour: RGB = _BLACK,
) -> None:
    for number, line in enumerate(lines):
        assert _font().getlength(line) <= width, line
        draw.text((left, top + number * _LINE_PX), line, font=_font(), fill=colour)


def _wrapped(text: str, width_px: int) -> list[str]:
    """Wrap a text at spaces; a word that is too wide is shortened."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if _font().getlength(longer) <= width_px:
            lines[-1] = longer
        elif lines[-1]:
            lines.append(_shortened(word, width_px))
        else:
            lines[-1] = _shortened(word, width_px)
    return lines


def _shortened(text: str, width_px: int) -> str:
    """Cut the middle out of a text that is too wide, since keys differ at their ends."""
    short, kept = text, len(text)
    while kept > 2 and _font().getlength(short) > width_px:
        kept -= 1
        short = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return short


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path

    # It has Greek letters and operators, and comes with matplotlib.
    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", _FONT_PX)
