"""Copies of packed images for other programs, which may not know EXIF orientations."""

from __future__ import annotations

import io

from PIL import Image

from a2s.data.images import FORMATS, MAX_PIXELS, BadImage, decode, decoding
from a2s.data.packing import EXTENSIONS

_LOSSLESS = ("PNG", "BMP", "TIFF")


def format_of(data: bytes) -> str:
    """The format that the header of an image names.

    Raises:
        BadImage: it is no image.
    """
    with decoding(data):
        return Image.open(io.BytesIO(data), formats=FORMATS).format or ""


def copy_of(
    data: bytes, *, orientation: int, as_jpeg: bool = False, max_pixels: int = MAX_PIXELS
) -> tuple[bytes, str]:
    """The bytes of an upright image, and their file extension.

    They are those that were packed, unless the image must be turned or become a JPEG. Then pixels
    are encoded again: as JPEG of quality 95, or as PNG if they were stored without loss.

    Raises:
        BadImage: it cannot be decoded.
    """
    name = format_of(data)
    if name not in EXTENSIONS:
        raise BadImage("unsupported", f"{name} is no format that a2s packs")
    extension = EXTENSIONS[name]
    if orientation == 1 and (extension == "jpg" or not as_jpeg):
        return data, extension
    image = Image.fromarray(decode(data, max_pixels=max_pixels))
    buffer = io.BytesIO()
    if name in _LOSSLESS and not as_jpeg:
        image.save(buffer, "PNG", compress_level=6)
        return buffer.getvalue(), "png"
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue(), "jpg"
