"""Image decoding and encoding: limits, EXIF orientation, colour modes; `masks` reads truths."""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from a2s.data import isolation
from a2s.data.arrays import U8
from a2s.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 178_956_970

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_ORIENTATION_TAG = 0x0112
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Exceptions that Pillow's decoders raise on damaged bytes.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


RESIZE_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


F = TypeVar("F", bound=Callable[..., Any])


class BadImage(DataError):
    """An image that cannot be used; `reason` is a one-word code for the failure list.

    Range: reason in {"empty", "damaged", "truncated", "pixel_bomb", "unsupported", "memory"}; where
    images are decoded in another process (`isolation.py`) also {"crashes", "timeout"}. With
    "memory" the image itself may be fine.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str]]:
        return BadImage, (self.reason, self.detail)


@dataclass(frozen=True)
class ImageInfo:
    """Size in pixels after the EXIF orientation is applied, EXIF orientation, file format."""

    width: int
    height: int
    orientation: int
    format: str


def isolable(function: F) -> F:
    """Inside `isolation.isolated()`, call a function that decodes in another process.

    The results are the same; BadImage has the further reasons "crashes" and "timeout".
    """

    @functools.wraps(function)
    def call(data: bytes, **limits: int) -> Any:
        if not isolation.is_on():
            return function(data, **limits)
        try:
            reply, payload = isolation.ask(function.__name__, data, limits)
        except isolation.DecoderDied as error:
            raise BadImage(error.reason, error.detail) from None
        if "reason" in reply:
            raise BadImage(reply["reason"], reply["detail"])
        if "info" in reply:
            return ImageInfo(**reply["info"])
        if "extension" in reply:
            return bytes(payload), reply["extension"]
        pixels = np.frombuffer(payload, np.uint8).reshape(reply["shape"])
        return (pixels, reply["note"]) if "note" in reply else pixels

    return cast(F, call)


@isolable
def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Check that an image decodes completely, and return its size and format.

    Raises:
        BadImage: as `decode`.
    """
    image, orientation, image_format = load(data, max_pixels=max_pixels)
    rgb = to_rgb(image)
    return ImageInfo(rgb.width, rgb.height, orientation, image_format)


@isolable
def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> U8:
    """Decode an image to upright RGB.

    Applies the EXIF orientation. Converts grey, palette, CMYK and 16-bit images to 8-bit RGB.
    Composites transparent pixels over white. Ignores colour profiles. Uses the first frame of an
    animation.

    Shape: H W 3, uint8, writable.

    Raises:
        BadImage: empty, damaged, truncated, above max_pixels, or not a supported image.
    """
    image, _, _ = load(data, max_pixels=max_pixels)
    return np.array(to_rgb(image))


@isolable
def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> U8:
    """Decode a mask or label to one grey channel, without min-max scaling.

    Converts colour to luminance, 1-bit values to 0 and 255, and 16-bit values to 8-bit. Drops
    alpha.

    Shape: H W, uint8, writable.

    Raises:
        BadImage: as `decode`.
    """
    image, _, _ = load(data, max_pixels=max_pixels)
    if image.mode in ("LA", "La"):
        return np.array(image.convert("LA").getchannel("L"))
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    if image.mode in ("RGBA", "RGBa", "P", "PA"):
        return np.array(image.convert("RGB").convert("L"))
    return np.array(to_rgb(image).convert("L"))


def resize_rgb(image_HW3: U8, *, height: int, width: int, resize_filter: str = "bilinear") -> U8:
    """Resize an RGB image with one of `RESIZE_FILTERS`.

    All filters but `nearest` antialias when they shrink.

    Shape: H W 3 -> height width 3, uint8.
    """
    if image_HW3.shape[:2] == (height, width):
        return image_HW3
    image = Image.fromarray(image_HW3).resize((width, height), RESIZE_FILTERS[resize_filter])
    return np.array(image)


def encode_png(mask_HW: U8) -> bytes:
    """Encode a grey mask as PNG (mode L); deterministic.

    Shape: H W, uint8.
    """
    assert mask_HW.ndim == 2, mask_HW.shape
    assert mask_HW.dtype == np.uint8, mask_HW.dtype
    return _save(Image.fromarray(mask_HW), "PNG")


@isolable
def shrink(data: bytes, *, max_side: int, max_pixels: int = MAX_PIXELS) -> tuple[bytes, str]:
    """Re-encode an image, EXIF orientation applied, with its longer side at most `max_side` pixels.

    Writes PNG, BMP and TIFF as PNG (lossless), other formats as JPEG at quality 95. Returns the
    bytes and the file extension.

    Raises:
        BadImage: as `decode`.
    """
    image, _, image_format = load(data, max_pixels=max_pixels)
    rgb = to_rgb(image)
    scale = min(1.0, max_side / max(rgb.size))
    size = tuple(max(1, round(side * scale)) for side in rgb.size)
    pixels_HW3 = resize_rgb(np.asarray(rgb), height=size[1], width=size[0])
    if image_format in ("PNG", "BMP", "TIFF"):
        return _save(Image.fromarray(pixels_HW3), "PNG"), "png"
    return _save(Image.fromarray(pixels_HW3), "JPEG"), "jpg"


def _save(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 95} if image_format == "JPEG" else {"compress_level": 6}
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def load(data: bytes, *, max_pixels: int) -> tuple[Image.Image, int, str]:
    """Decode to an upright image in the file's own mode, its EXIF orientation and format.

    Raises:
        BadImage: as `decode`.
    """
    if not data:
        raise BadImage("empty", "the file holds no bytes")
    try:
        with warnings.catch_warnings():
            # The exact pixel limit is checked below; metadata warnings do not mean damage.
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
            if image.width * image.height > max_pixels:
                raise BadImage(
                    "pixel_bomb", f"{image.width} x {image.height} is over {max_pixels} pixels"
                )
            if image.width == 0 or image.height == 0:
                raise BadImage("damaged", f"its size is {image.width} x {image.height}")
            image_format = image.format or ""
            orientation = _orientation(image)
            image.load()
            if image_format == "PNG":
                # `load` does not verify the checksums of the pixel data.
                Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("pixel_bomb", str(error)) from error
    except UnidentifiedImageError as error:
        if data.startswith(_MAGIC):
            raise BadImage("damaged", "the header cannot be read") from error
        raise BadImage("unsupported", "not a JPEG, PNG, WebP, BMP or TIFF image") from error
    except MemoryError as error:
        raise BadImage("memory", "out of memory while decoding; try fewer workers") from error
    except _DAMAGE as error:
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise BadImage(reason, str(error) or type(error).__name__) from error
    # Pillow applies the orientation of TIFF files itself while loading.
    if image_format != "TIFF" and orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return image, orientation, image_format


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 (upright) if the metadata cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (*_DAMAGE, MemoryError):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB; transparent pixels over white.

    Raises:
        BadImage: pixels without an agreed range.
    """
    if image.mode.startswith("I"):
        # Pillow clips 16-bit values at 255 when it converts them; scale instead.
        values_HW = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((values_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadImage("unsupported", "floating-point pixels have no agreed range")
    try:
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")
    except ValueError as error:
        raise BadImage("unsupported", f"colour mode {image.mode}: {error}") from error
