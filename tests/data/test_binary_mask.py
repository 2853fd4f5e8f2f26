"""Masks that a person drew: what is in them is what every reader sees."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from a2s.data.binary_mask import problem_of
from a2s.data.images import encode_png


def turned(orientation: int, way: str, *, height: int = 8, width: int = 8) -> bytes:
    """A mask whose metadata have an orientation, in EXIF or XMP."""
    buffer, exif, text = io.BytesIO(), Image.Exif(), PngImagePlugin.PngInfo()
    if way == "exif":
        exif[0x0112] = orientation
    else:
        xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'
        text.add_itxt("XML:com.adobe.xmp", xmp)
    pixels_HW = np.zeros((height, width), np.uint8)
    pixels_HW[: height // 2] = 255
    Image.fromarray(pixels_HW).save(buffer, "PNG", exif=exif, pnginfo=text)
    return buffer.getvalue()


@pytest.mark.parametrize("way", ["exif", "xmp"])
@pytest.mark.parametrize(("orientation", "height"), [(3, 8), (6, 8), (6, 5)])
def test_a_mask_that_readers_would_turn_is_refused(way: str, orientation: int, height: int) -> None:
    png = turned(orientation, way, height=height)
    assert "EXIF orientation" in str(problem_of(png, height=height, width=8))


def test_upright_masks_may_say_so() -> None:
    assert problem_of(turned(1, "exif"), height=8, width=8) is None
    assert problem_of(encode_png(np.zeros((8, 9), np.uint8)), height=8, width=9) is None
