"""Masks that a person drew: PNG files of mode L with the values 0 and 255, of a known size."""

from __future__ import annotations

import struct

from a2s.data.images import BadImage, decode_mask, probe

_HEAD = struct.Struct(">8s4x4sIIBB")
_GREY_8_BIT = (8, 0)
_ORIENTATIONS = (b"eXIf", b"Raw profile type", b"xmp")
"""Parts of a PNG in which programs keep an EXIF orientation."""


def problem_of(png: bytes, *, height: int, width: int) -> str | None:
    """What is wrong with a mask of strangers, in words that follow "a mask that"; None if nothing.

    Its header is checked before anything is decoded.
    """
    if len(png) < _HEAD.size:
        return "is no PNG"
    magic, chunk, *size, depth, colour = _HEAD.unpack_from(png)
    if magic != b"\x89PNG\r\n\x1a\n" or chunk != b"IHDR":
        return "is no PNG"
    if size != [width, height]:
        return f"has {size[0]} x {size[1]} pixels, not {width} x {height}"
    if (depth, colour) != _GREY_8_BIT:
        return "is not grey with 8 bits (mode L)"
    try:
        mask_HW = decode_mask(png, max_pixels=height * width)
    except BadImage as error:
        return f"is damaged ({error})"
    if any(name in png for name in _ORIENTATIONS) and probe(png).orientation != 1:
        return "has an EXIF orientation, which turns it"
    is_binary = ((mask_HW == 0) | (mask_HW == 255)).all()
    return None if is_binary else "has other values than 0 and 255"
