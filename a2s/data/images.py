"""Image decoding and encoding: limits, EXIF orientation, colour modes.

`masks` reads truths, `photograph` what a cut-out needs.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from a2s.data import isolation, pixels
from a2s.data.arrays import U8
from a2s.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 178_956_970

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_ORIENTATION_TAG, _NO_MEMORY = 0x0112, "decoder error -9"
# Exceptions that Pillow's decoders raise on damaged bytes.
_DAMAGE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(struct.error, zlib.error),
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
    num_frames: int = 1
    """Pages of a TIFF, or frames of an animated WebP or PNG, of which only the first is used."""


def isolable(function: F) -> F:
    """Inside `isolation.isolated()`, call a function that decodes in another process.

    The results are the same; BadImage has the further reasons "crashes" and "timeout".
    """

    @functools.wraps(function)
    def call(data: bytes, **limits: int) -> Any:
        if not isolation.is_on():
            with isolation.guard(data):
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
        if "shape" not in reply:
            return bytes(payload)
        pixels = np.frombuffer(payload, np.uint8).reshape(reply["shape"])
        return (pixels, reply["note"]) if "note" in reply else pixels

    return cast(F, call)


@isolable
def probe(data: bytes, *, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """Check that an image decodes completely, and return its size and format.

    Raises:
        BadImage: as `decode`.
    """
    # An eighth of the size is enough of a JPEG: all its bytes are decoded for that.
    with decoding(data):
        opened = load(data, max_pixels=max_pixels, least_side=1)
        pixels.to_rgb(opened.image.crop((0, 0, 1, 1)))
    return opened.info


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
    with decoding(data):
        opened = load(data, max_pixels=max_pixels)
        return pixels.rgb(opened.image, opened.turn)


@isolable
def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> U8:
    """Decode a mask or label to one grey channel, without min-max scaling.

    Converts colour to luminance, 1-bit values to 0 and 255, and 16-bit values to 8-bit. Drops
    alpha.

    Shape: H W, uint8, writable.

    Raises:
        BadImage: as `decode`.
    """
    with decoding(data):
        opened = load(data, max_pixels=max_pixels)
        return pixels.grey(opened.image, opened.turn)


def num_pixels(data: bytes) -> int:
    """Number of pixels that the header of an image announces; 0 if it cannot be read."""
    with contextlib.suppress(BadImage), decoding(data):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        return image.width * image.height
    return 0


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
    with decoding(data):
        # At least twice the wanted size, so that the filter still has pixels to average.
        opened = load(data, max_pixels=max_pixels, least_side=2 * max_side)
        pixels_HW3 = pixels.rgb(opened.image, opened.turn)
        image_format, full = opened.info.format, (opened.info.width, opened.info.height)
        del opened
        scale = min(1.0, max_side / max(full))
        width, height = (max(1, round(side * scale)) for side in full)
        pixels_HW3 = resize_rgb(pixels_HW3, height=height, width=width)
    if image_format in ("PNG", "BMP", "TIFF"):
        return _save(Image.fromarray(pixels_HW3), "PNG"), "png"
    return _save(Image.fromarray(pixels_HW3), "JPEG"), "jpg"


def _save(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 95} if image_format == "JPEG" else {"compress_level": 6}
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Opened:
    """A decoded image, not yet upright; `turn` is the EXIF orientation that is still to apply."""

    image: Image.Image
    info: ImageInfo
    turn: int


def load(data: bytes, *, max_pixels: int, least_side: int = 0) -> Opened:
    """Open, check the pixel count in the header, decode; inside a `decoding` block.

    With `least_side` the pixels of a JPEG may be fewer, with neither side under that.
    """
    if not data:
        raise BadImage("empty", "the file holds no bytes")
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_pixels:
        raise BadImage("pixel_bomb", f"{image.width} x {image.height} is over {max_pixels} pixels")
    if image.width == 0 or image.height == 0:
        raise BadImage("damaged", f"its size is {image.width} x {image.height}")
    image_format, stored_size = image.format or "", image.size
    orientation, num_frames = _orientation(image), _num_frames(image)
    if least_side and isinstance(image, JpegImageFile):
        image.draft(None, (least_side, least_side))
    image.load()
    if image_format == "PNG":
        # `load` does not verify the checksums of the pixel data.
        Image.open(io.BytesIO(data), formats=("PNG",)).verify()
    if image_format == "TIFF":  # Pillow applies the orientation itself while loading.
        return Opened(image, ImageInfo(*image.size, orientation, image_format, num_frames), 1)
    size = pixels.upright_size(*stored_size, orientation)
    return Opened(image, ImageInfo(*size, orientation, image_format, num_frames), orientation)


@contextlib.contextmanager
def decoding(data: bytes = b"") -> Iterator[None]:
    """Turn whatever Pillow raises into BadImage; `data` tells damaged images from other files."""
    try:
        with warnings.catch_warnings():
            # The exact pixel limit is checked; metadata warnings do not mean damage.
            warnings.simplefilter("ignore")
            yield
    except BadImage:
        raise
    except pixels.UnknownColours as error:
        raise BadImage("unsupported", str(error)) from error
    except Image.DecompressionBombError as error:
        raise BadImage("pixel_bomb", str(error)) from error
    except UnidentifiedImageError as error:
        if data.startswith(_MAGIC):
            raise BadImage("damaged", "the header cannot be read") from error
        raise BadImage("unsupported", "not a JPEG, PNG, WebP, BMP or TIFF image") from error
    except MemoryError as error:
        raise BadImage("memory", "out of memory while decoding; try fewer workers") from error
    except _DAMAGE as error:
        if str(error) == _NO_MEMORY:
            raise BadImage("memory", "its codec is out of memory") from error
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise BadImage(reason, str(error) or type(error).__name__) from error


def _num_frames(image: Image.Image) -> int:
    """Number of pages or frames; 1 of a JPEG, which may bring previews and depth maps along."""
    if image.format not in ("TIFF", "WEBP", "PNG"):
        return 1
    try:
        num_frames = int(getattr(image, "n_frames", 1))
    except (*_DAMAGE, MemoryError):
        # What follows the first page is damaged, which `load` need not read.
        num_frames = 1
    image.seek(0)
    return num_frames


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation; 1 (upright) if the metadata cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (*_DAMAGE, MemoryError):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
