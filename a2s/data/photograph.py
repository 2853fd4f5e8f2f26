"""A photograph as its cut-out needs it: own colours, transparency, colour profile."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from a2s.data.arrays import U8
from a2s.data.images import FORMATS, MAX_PIXELS, decoding, isolable, load
from a2s.data.pixels import is_transparent, rgb, rgba

_RGB = b"RGB "
"""Colour space in an ICC profile (ICC.1:2010, 7.2.8), at bytes 16 to 19 of its header."""


@isolable
def decode_with_alpha(data: bytes, *, max_pixels: int = MAX_PIXELS) -> U8:
    """Decode an image to upright RGB, or to RGBA if it has transparency.

    The colours of transparent pixels are those in the file. Otherwise as `images.decode`.

    Shape: H W 3 or H W 4, uint8, writable.

    Raises:
        BadImage: as `images.decode`.
    """
    with decoding(data):
        opened = load(data, max_pixels=max_pixels)
        # Pillow clips 16-bit values when it converts them to RGBA.
        has_alpha = is_transparent(opened.image) and not opened.image.mode.startswith("I")
        return (rgba if has_alpha else rgb)(opened.image, opened.turn)


@isolable
def colour_profile(data: bytes) -> bytes:
    """The ICC profile in an image that decodes; empty if it has none for RGB.

    Pixels of grey and CMYK images are converted to RGB, and their profile holds no longer.
    """
    with decoding(data), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        profile: bytes = image.info.get("icc_profile") or b""
    return profile if profile[16:20] == _RGB else b""


def over_white(image_HWC: U8) -> U8:
    """Composite transparent pixels over white, as `images.decode` does.

    Shape: H W 3 or H W 4 -> H W 3.
    """
    if image_HWC.shape[2] == 3:
        return image_HWC
    rgba = Image.fromarray(image_HWC)
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
