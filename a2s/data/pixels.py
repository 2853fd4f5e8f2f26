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
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")
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
