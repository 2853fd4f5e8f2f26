"""Transparency and colour profiles as they are in files, also from decoder processes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from a2s.data.images import BadImage, decode
from a2s.data.isolation import isolated
from a2s.data.photograph import colour_profile, decode_with_alpha, over_white

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RGBA = np.random.default_rng(0).integers(0, 255, (5, 7, 4), np.uint8)


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def palette() -> Image.Image:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


def test_colours_of_transparent_pixels_are_kept() -> None:
    data = encoded(Image.fromarray(RGBA))
    np.testing.assert_array_equal(decode_with_alpha(data), RGBA)
    np.testing.assert_array_equal(over_white(RGBA), decode(data))


@pytest.mark.parametrize("mode", ["LA", "P", "RGB"])
def test_transparency_of_every_mode(mode: str) -> None:
    if mode == "LA":
        data, alpha = encoded(Image.fromarray(RGBA).convert("LA")), RGBA[..., 3]
    elif mode == "P":
        data = encoded(palette(), transparency=bytes([255, 100, 0]))
        alpha = np.array([255, 100, 0], np.uint8)[np.arange(12).reshape(3, 4) % 3]
    else:
        pixels = RGBA[..., :3].copy()
        pixels[2, 3] = (1, 2, 3)
        data = encoded(Image.fromarray(pixels), transparency=(1, 2, 3))
        alpha = np.full((5, 7), 255, np.uint8)
        alpha[2, 3] = 0
    found = decode_with_alpha(data)
    np.testing.assert_array_equal(found[..., 3], alpha)
    np.testing.assert_array_equal(over_white(found), decode(data))


def test_opaque_images_have_three_channels() -> None:
    data = encoded(Image.fromarray(RGBA[..., :3]))
    np.testing.assert_array_equal(decode_with_alpha(data), RGBA[..., :3])
    assert over_white(RGBA[..., :3]) is not None
    sixteen = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    data = encoded(Image.fromarray(sixteen))
    np.testing.assert_array_equal(decode_with_alpha(data), decode(data))


def test_a_palette_image_without_its_palette_is_no_crash() -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 3, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(b"\0\0\1\0" * 3))
    data = b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode_with_alpha(data), decode(data))


def test_the_orientation_is_applied() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded(Image.fromarray(RGBA), exif=turned.tobytes())
    np.testing.assert_array_equal(decode_with_alpha(data), np.rot90(RGBA, -1))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_the_profile_is_that_of_the_file(image_format: str) -> None:
    image = Image.fromarray(RGBA[..., :3])
    assert colour_profile(encoded(image, image_format, icc_profile=SRGB)) == SRGB
    assert colour_profile(encoded(image, image_format)) == b""


def test_profiles_of_other_colours_are_dropped() -> None:
    grey = bytearray(SRGB)
    grey[16:20] = b"GRAY"
    image = Image.fromarray(RGBA[..., 0])
    assert colour_profile(encoded(image, icc_profile=bytes(grey))) == b""


def test_another_process_gives_the_same() -> None:
    data = encoded(Image.fromarray(RGBA), icc_profile=SRGB)
    with isolated():
        np.testing.assert_array_equal(decode_with_alpha(data), RGBA)
        assert colour_profile(data) == SRGB
        with pytest.raises(BadImage, match="pixel_bomb"):
            decode_with_alpha(data, max_pixels=3)
