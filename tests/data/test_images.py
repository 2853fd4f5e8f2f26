"""Decoding: orientation, colour modes, bad images."""

from __future__ import annotations

import copy
import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from a2s.data import images
from a2s.data.images import BadImage
from a2s.data.masks import resize_mask

# Four colours, so that all orientations differ.
QUADRANTS = np.zeros((16, 24, 3), np.uint8)
QUADRANTS[:8, :12] = (255, 0, 0)
QUADRANTS[:8, 12:] = (0, 255, 0)
QUADRANTS[8:, :12] = (0, 0, 255)
# EXIF: what a viewer does to the stored pixels, written with numpy alone.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def encoded(image: Image.Image | np.ndarray, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation: int, image_format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = encoded(QUADRANTS, image_format, exif=exif, **options.get(image_format, {}))
    expected = UPRIGHT[orientation](QUADRANTS)
    decoded = images.decode(data)
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 4
    info = images.probe(data)
    assert (info.height, info.width) == expected.shape[:2]
    assert (info.orientation, info.format) == (orientation, image_format)
    assert images.decode_mask(data).shape == expected.shape[:2]


def test_orientation_out_of_range_counts_as_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert images.probe(encoded(QUADRANTS, "PNG", exif=exif)).orientation == 1


@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_decode_exactly(image_format: str) -> None:
    options = {"lossless": True} if image_format == "WEBP" else {}
    decoded = images.decode(encoded(QUADRANTS, image_format, **options))
    np.testing.assert_array_equal(decoded, QUADRANTS)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous


def test_grey_fills_all_three_channels() -> None:
    grey_HW = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.repeat(grey_HW[..., None], 3, axis=2)
    np.testing.assert_array_equal(images.decode(encoded(grey_HW, "PNG")), expected)


def test_one_bit_images() -> None:
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(images.decode(encoded(bits, "PNG"))[0, :, 0], [0, 255])
    np.testing.assert_array_equal(images.decode_mask(encoded(bits, "PNG"))[0], [0, 255])


def test_cmyk_jpeg() -> None:
    rgb = Image.fromarray(np.full((16, 16, 3), (200, 30, 60), np.uint8))
    decoded = images.decode(encoded(rgb.convert("CMYK"), "JPEG", quality=100))
    assert np.abs(decoded.astype(int) - (200, 30, 60)).max() <= 6


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_over_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    decoded = images.decode(encoded(image.convert(mode), "PNG"))
    assert decoded[0, :, 0].tolist() == [0, 255, 127]


def test_palette_with_and_without_transparency() -> None:
    palette = Image.fromarray(QUADRANTS).quantize(4)
    np.testing.assert_array_equal(images.decode(encoded(palette, "PNG")), QUADRANTS)
    black = int(np.asarray(palette)[-1, -1])
    decoded = images.decode(encoded(palette, "PNG", transparency=black))
    assert decoded[-1, -1].tolist() == [255, 255, 255]
    assert decoded[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(image_format: str) -> None:
    values = np.array([[0, 257, 256 * 128, 65535]], np.uint16)
    data = encoded(values, image_format)
    assert images.decode(data)[0, :, 1].tolist() == [0, 1, 128, 255]
    assert images.decode_mask(data)[0].tolist() == [0, 1, 128, 255]


def test_16_bit_rgb_png() -> None:
    assert images.decode(_png(1, 1, bit_depth=16, colour=2, rows=b"\0\xff\xff\x80\x00\x00\x00"))[
        0, 0
    ].tolist() == [255, 128, 0]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 97), (97, 1)])
def test_thin_images(height: int, width: int) -> None:
    image = np.full((height, width, 3), 200, np.uint8)
    data = encoded(image, "PNG")
    np.testing.assert_array_equal(images.decode(data), image)
    assert images.resize_rgb(image, height=32, width=32).shape == (32, 32, 3)
    shrunk, extension = images.shrink(data, max_side=16)
    assert extension == "png"
    assert max(images.decode(shrunk).shape[:2]) == min(16, max(height, width))


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def _png(width: int, height: int, *, bit_depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (encoded(_noise(), "JPEG")[:1000], "truncated"),
        (encoded(_noise(), "PNG")[:3000], "truncated"),
        (encoded(_noise(), "WEBP")[:800], "damaged"),
        (encoded(_noise(), "BMP")[:500], "truncated"),
        (encoded(_noise(), "TIFF")[:500], "truncated"),
        (encoded(_noise(), "PNG")[:1500] + b"\0" * 8 + encoded(_noise(), "PNG")[1508:], "damaged"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
        (b"hello, this is text", "unsupported"),
        (encoded(_noise(), "GIF"), "unsupported"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), "unsupported"),
        (_png(100_000, 100_000, bit_depth=8, colour=2, rows=b""), "pixel_bomb"),
        (_png(14_000, 14_000, bit_depth=1, colour=0, rows=b""), "pixel_bomb"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_images_have_a_reason(data: bytes, reason: str) -> None:
    for read in (images.probe, images.decode, images.decode_mask):
        if read is images.decode_mask and reason == "unsupported" and data[:2] == b"II":
            continue
        with pytest.raises(BadImage) as caught:
            read(data)
        assert caught.value.reason == reason, caught.value.detail


def test_large_but_allowed_gives_no_warning() -> None:
    # Pillow warns from 89 million pixels on; filterwarnings=error would turn that into a failure.
    data = _png(10_000, 9_000, bit_depth=1, colour=0, rows=bytes(9_000 * 1_251))
    with pytest.raises(BadImage, match="pixel_bomb"):
        images.probe(data, max_pixels=10_000 * 9_000 - 1)
    assert images.decode_mask(data).shape == (9_000, 10_000)


def test_out_of_memory_is_not_reported_as_damage() -> None:
    code = """
import resource, sys
from a2s.data import images
data = sys.stdin.buffer.read()
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 64 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    images.decode(data)
except images.BadImage as error:
    print(error.reason)
"""
    data = _png(10_000, 9_000, bit_depth=1, colour=0, rows=bytes(9_000 * 1_251))
    done = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=120
    )
    assert done.stdout.split() == [b"memory"]


def test_bad_image_error_can_be_pickled() -> None:
    # Ray pickles it; `copy` uses the same protocol.
    error = copy.copy(BadImage("empty", "nothing"))
    assert (error.reason, error.detail) == ("empty", "nothing")


def test_masks_keep_their_values() -> None:
    stored = np.array([[0, 1, 100, 254]], np.uint8)
    np.testing.assert_array_equal(images.decode_mask(images.encode_png(stored)), stored)
    with_alpha = Image.merge("LA", [Image.fromarray(stored), Image.fromarray(stored)])
    np.testing.assert_array_equal(images.decode_mask(encoded(with_alpha, "PNG")), stored)
    np.testing.assert_array_equal(
        images.decode_mask(encoded(Image.fromarray(stored).convert("RGB"), "PNG")), stored
    )


def test_png_bytes_are_deterministic() -> None:
    mask = (np.indices((40, 50)).sum(0) % 2 * 255).astype(np.uint8)
    assert images.encode_png(mask) == images.encode_png(mask.copy())


def test_resizing_is_antialiased_and_masks_are_not() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = images.resize_rgb(stripes, height=16, width=16)
    assert 100 < small.min() <= small.max() < 155
    mask = resize_mask(stripes[..., 0], height=10, width=13)
    assert mask.shape == (10, 13)
    assert set(np.unique(mask)) <= {0, 255}


def test_shrinking_keeps_lossless_formats_lossless() -> None:
    data, extension = images.shrink(encoded(_noise(), "JPEG"), max_side=32)
    assert (extension, images.probe(data).format) == ("jpg", "JPEG")
    data, extension = images.shrink(encoded(_noise(), "TIFF"), max_side=32)
    assert (extension, images.probe(data).format) == ("png", "PNG")
    assert images.decode(data).shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "nearest"])
def test_resize_filters_are_those_of_pillow(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    found = images.resize_rgb(pixels, height=32, width=32, resize_filter=name)
    expected = Image.fromarray(pixels).resize((32, 32), getattr(Image.Resampling, name.upper()))
    np.testing.assert_array_equal(found, np.array(expected))


def test_filter_of_the_authors_code_is_the_default_of_pillow() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    found = images.resize_rgb(pixels, height=32, width=32, resize_filter="bicubic")
    np.testing.assert_array_equal(found, np.array(Image.fromarray(pixels).resize((32, 32))))


def several(image_format: str) -> bytes:
    """Three pages or frames."""
    frames = [Image.new("RGB", (8, 6), (40 * number, 9, 9)) for number in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, image_format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["TIFF", "WEBP", "PNG"])
def test_pages_and_frames_beyond_the_first_are_counted(image_format: str) -> None:
    data = several(image_format)
    assert images.probe(data).num_frames == 3
    assert images.decode(data)[..., 0].max() < 20, "the first one is used"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, image_format)
    assert images.probe(buffer.getvalue()).num_frames == 1
