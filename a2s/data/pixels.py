"""Pixels of an open Pillow image as arrays, upright, in strips: no second image is in memory.

Pillow keeps up to 4 bytes per pixel; converting a whole image would need up to 20.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from a2s.data.arrays import U8

WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
"""Modes of Pillow that have an alpha channel; others may name a transparent colour."""
_STRIP_PIXELS = 1 << 20
_AXES_SWAPPED = (5, 6, 7, 8)


class UnknownColours(ValueError):
    """A colour mode that has no agreed meaning in 8 bits."""


def upright_size(width: int, height: int, orientation: int) -> tuple[int, int]:
    """Width and height of an image after its EXIF orientation (1 to 8) is applied."""
    return (height, width) if orientation in _AXES_SWAPPED else (width, height)


def rgb(image: Image.Image, orientation: int) -> U8:
    """RGB pixels of an image, composited over white.

    Shape: H W 3, uint8, writable.

    Raises:
        UnknownColours: as `to_rgb`.
    """
    return _pixels(image, orientation, to_rgb, channels=(3,))


def rgba(image: Image.Image, orientation: int) -> U8:
    """RGB pixels of an image and their alpha; the colours of transparent pixels are the file's.

    Shape: H W 4, uint8, writable.

    Raises:
        UnknownColours: a mode that Pillow does not convert.
    """
    return _pixels(image, orientation, _to_rgba, channels=(4,))


def grey(image: Image.Image, orientation: int) -> U8:
    """Luminance of an image without its alpha.

    Shape: H W, uint8, writable.

    Raises:
        UnknownColours: as `to_rgb`.
    """
    return _pixels(image, orientation, _to_grey, channels=())


def _pixels(
    image: Image.Image,
    orientation: int,
    convert: Callable[[Image.Image], Image.Image],
    *,
    channels: tuple[int, ...],
) -> U8:
    width, height = upright_size(*image.size, orientation)
    upright_HWx = np.empty((height, width, *channels), np.uint8)
    stored_HWx = _as_stored(upright_HWx, orientation)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        stored_HWx[top : top + rows] = np.asarray(convert(strip))
    return upright_HWx


def upright(stored_HW: U8, orientation: int) -> U8:
    """Apply an EXIF orientation to pixels in the order of their file.

    Shape: H W -> W H if the orientation swaps the axes, else the same.
    """
    if orientation == 1:
        return stored_HW
    height, width = stored_HW.shape
    width, height = upright_size(width, height, orientation)
    upright_HW = np.empty((height, width), stored_HW.dtype)
    _as_stored(upright_HW, orientation)[...] = stored_HW
    return upright_HW


def _as_stored(upright: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of an upright image that has the order of its file."""
    views: dict[int, Callable[[], NDArray[Any]]] = {
        2: lambda: upright[:, ::-1],
        3: lambda: upright[::-1, ::-1],
        4: lambda: upright[::-1],
        5: lambda: upright.swapaxes(0, 1),
        6: lambda: np.rot90(upright),
        7: lambda: upright[::-1, ::-1].swapaxes(0, 1),
        8: lambda: np.rot90(upright, -1),
    }
    return views.get(orientation, lambda: upright)()


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert grey, palette, CMYK and 16-bit images to RGB; composite transparent ones over white.

    Raises:
        UnknownColours: floating-point pixels, or a mode that Pillow does not convert.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 when it converts them; scale instead.
        values_HW = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((values_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UnknownColours("floating-point pixels have no agreed range")
    try:
        if is_transparent(image):
            with_alpha = image.convert("RGBA")
            white = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, with_alpha).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise UnknownColours(f"colour mode {image.mode}: {error}") from error


def is_transparent(image: Image.Image) -> bool:
    """Whether pixels of an image may be transparent."""
    return image.mode in WITH_ALPHA or "transparency" in image.info


def _to_rgba(image: Image.Image) -> Image.Image:
    try:
        return image.convert("RGBA")
    except ValueError as error:
        raise UnknownColours(f"colour mode {image.mode}: {error}") from error


def _to_grey(image: Image.Image) -> Image.Image:
    if image.mode in ("LA", "La"):
        return image.convert("LA").getchannel("L")
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.mode in ("RGBA", "RGBa", "P", "PA"):
        return image.convert("RGB").convert("L")
    return to_rgb(image).convert("L")
