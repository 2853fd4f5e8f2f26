"""Masks made by other programs: what their files mean, as grey values from 0 to 255.

`images.decode_mask` reads the masks that a2s writes; everything else comes here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from a2s.data.arrays import U8, Bool
from a2s.data.images import MAX_PIXELS, decoding, isolable, load
from a2s.data.pixels import is_transparent, to_rgb, upright

GREY = "grey"
MEANINGS: Mapping[str, str] = {
    GREY: "grey values, 255 is the object",
    "numbers": "numbers of objects or classes (1 to 20; 0 is background, as is 255, VOC's border)",
    "colours": "a colour per object or class (black is background, as is VOC's border)",
    "alpha": "opacity (the colours are not the mask)",
    "16 bits": "16 bits (up to 255 as in 8 bits, more as shares of 65535)",
}
"""What a file can mean, as `decode_truth` names it, in words."""

MAX_NUMBER = 20
"""Largest number of a class in PASCAL VOC. Above it, low values are faint grey: PASCAL-S has 21 for
an object that one of twelve people has marked."""
VOC_BORDER = (224, 224, 192)
"""Colour of number 255 in the palette of PASCAL VOC: pixels that belong to no class."""
_VOC_COLOURS = [128, 0, 0, 0, 128, 0]
"""Numbers 1 and 2 in that palette; its number 7 is grey, so a file may show no colour."""
_CHROMA = 32
"""Least difference between the channels of a pixel that is coloured."""
_LOSSY_SHARE = 0.005
"""Share of coloured pixels above which colour is no noise of a lossy format."""


@isolable
def decode_truth(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[U8, str]:
    """Decode a mask that another program has made, and say how it was read (`MEANINGS`).

    Shape: H W, uint8, 255 is the object.

    Raises:
        BadImage: as `images.decode`.
    """
    with decoding(data):
        opened = load(data, max_pixels=max_pixels)
        is_lossless = opened.info.format not in ("JPEG", "MPO", "WEBP")
        mask_HW, meaning = _read(opened.image, is_lossless=is_lossless)
        return upright(mask_HW, opened.turn), meaning


def _read(image: Image.Image, *, is_lossless: bool) -> tuple[U8, str]:
    found = _opacity(image)
    if found is not None:
        return found, "alpha"
    if image.mode.startswith("I"):
        grey_HW, meaning = _from_16_bits(image), "16 bits"
    elif image.mode in ("1", "L"):
        grey_HW, meaning = np.array(image.convert("L")), GREY
    else:
        colours_HW3 = _colours(image)
        if _is_coloured(image, colours_HW3, is_lossless=is_lossless):
            return _binary(
                _has_object_colour(colours_HW3, noise=0 if is_lossless else 31)
            ), "colours"
        grey_HW, meaning = _grey(colours_HW3), GREY
    if is_lossless and _holds_numbers(grey_HW):
        return _binary((grey_HW > 0) & (grey_HW < 255)), "numbers"
    return grey_HW, meaning


@isolable
def decode_map(data: bytes, *, max_pixels: int = MAX_PIXELS) -> U8:
    """Decode a predicted map: as `decode_truth`, but values stay as they are.

    A map is graded, so low values are no numbers, and colours are luminance.

    Shape: H W, uint8.

    Raises:
        BadImage: as `images.decode`.
    """
    with decoding(data):
        opened = load(data, max_pixels=max_pixels)
        image = opened.image
        map_HW = _opacity(image)
        if map_HW is None:
            is_deep = image.mode.startswith("I")
            if image.mode in ("1", "L"):
                map_HW = np.array(image.convert("L"))
            else:
                map_HW = _from_16_bits(image) if is_deep else _grey(_colours(image))
        return upright(map_HW, opened.turn)


def resize_mask(mask_HW: U8, *, height: int, width: int) -> U8:
    """Resize a mask by nearest neighbour, so that no new values appear.

    Shape: H W -> height width, uint8.
    """
    if mask_HW.shape == (height, width):
        return mask_HW
    image = Image.fromarray(mask_HW).resize((width, height), Image.Resampling.NEAREST)
    return np.array(image)


def describe(counts: Mapping[str, int], *, what: str) -> str:
    """Say how masks were read, if not all are plain grey: `3 truths read as …`; else ""."""
    parts = [
        f"{counts[name]:,} as {text}"
        for name, text in MEANINGS.items()
        if name != GREY and counts.get(name)
    ]
    return f"{what} read {'; '.join(parts)}" if parts else ""


def useless(*, num_masks: int, num_empty: int, num_full: int) -> str:
    """Why these masks cannot be right, as a clause with the likely cause; "" if they can."""
    if num_masks and num_empty == num_masks:
        return (
            "not one of the masks has a salient pixel; are their values below 128, or are these "
            "other files than masks?"
        )
    if num_masks and num_full == num_masks:
        return (
            "every pixel of every mask is salient; are these photographs or cut-outs instead of "
            "masks, or is the mask stored in a way that is not known?"
        )
    return ""


def _opacity(image: Image.Image) -> U8 | None:
    """The alpha channel where it is the mask: what it shows has one colour, or is a cut-out."""
    if not is_transparent(image):
        return None
    rgba_HW4 = np.asarray(image if image.mode == "RGBA" else image.convert("RGBA"))
    alpha_HW, colours_HW3 = np.ascontiguousarray(rgba_HW4[..., 3]), rgba_HW4[..., :3]
    if alpha_HW.min() == alpha_HW.max():
        # An empty mask leaves nothing to see; an opaque file shows its mask in colour or grey.
        is_flat = _spread(colours_HW3.reshape(-1, 3)) == 0
        return alpha_HW if alpha_HW.max() == 0 and is_flat else None
    seen_N3 = colours_HW3[alpha_HW > 0]
    grey_N = seen_N3.max(1)
    is_photograph = ((grey_N >= _CHROMA) & (grey_N < 256 - _CHROMA)).mean() > 0.5
    is_coloured = (np.ptp(seen_N3, axis=1) >= _CHROMA).mean() > _LOSSY_SHARE
    if _spread(seen_N3) < _CHROMA or is_photograph or is_coloured:
        return alpha_HW
    return None


def _spread(colours_N3: NDArray[np.uint8]) -> int:
    return int(np.ptp(colours_N3, axis=0).max())


def _colours(image: Image.Image) -> U8:
    if image.mode in ("LA", "La"):
        image = image.convert("LA").getchannel("L")
    if image.mode in ("RGBA", "RGBa", "P", "PA", "1", "L"):
        return np.array(image.convert("RGB"))
    return np.array(to_rgb(image))


def _grey(colours_HW3: U8) -> U8:
    return np.array(Image.fromarray(colours_HW3).convert("L"))


def _is_coloured(image: Image.Image, colours_HW3: U8, *, is_lossless: bool) -> bool:
    """Whether colours tell objects apart; a grey of VOC's palette counts, too."""
    if image.mode in ("P", "PA") and (image.getpalette("RGB") or [])[3:9] == _VOC_COLOURS:
        return True
    share = float((_chroma(colours_HW3) >= _CHROMA).mean())
    return share > (0 if is_lossless else _LOSSY_SHARE)


def _chroma(colours_HW3: U8) -> U8:
    """Largest difference between the channels of each pixel; many times faster than `np.ptp`."""
    red_HW, green_HW, blue_HW = np.moveaxis(colours_HW3, 2, 0)
    most_HW = np.maximum(np.maximum(red_HW, green_HW), blue_HW)
    chroma_HW: U8 = most_HW - np.minimum(np.minimum(red_HW, green_HW), blue_HW)
    return chroma_HW


def _has_object_colour(colours_HW3: U8, *, noise: int) -> Bool:
    """Pixels that are neither black nor VOC's border, by more than the noise of the format."""
    off_HW = np.zeros(colours_HW3.shape[:2], np.int16)
    for channel, value in enumerate(VOC_BORDER):
        # One after the other: `isolated_decoder.py` limits the bytes per pixel.
        difference_HW = colours_HW3[..., channel].astype(np.int16) - np.int16(value)
        np.maximum(off_HW, np.abs(difference_HW), out=off_HW)
    is_object_HW: Bool = (colours_HW3.max(2) > noise) & (off_HW > noise)
    return is_object_HW


def _from_16_bits(image: Image.Image) -> U8:
    values_HW = np.clip(np.asarray(image), 0, 65535).astype(np.uint16)
    largest = int(values_HW.max())
    if largest <= 255:
        return values_HW.astype(np.uint8)
    if ((values_HW == 0) | (values_HW == largest)).all():
        # 12 bits in 16, for example.
        return _binary(values_HW > 0)
    return ((values_HW.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _holds_numbers(grey_HW: U8) -> bool:
    """Whether the values are numbers of objects or classes, VOC's border apart."""
    if not ((grey_HW > 0) & (grey_HW <= MAX_NUMBER)).any():
        return False
    counts_T = np.bincount(grey_HW.ravel(), minlength=256)
    num_numbered = int(counts_T[1 : MAX_NUMBER + 1].sum())
    return num_numbered > counts_T[255] and not counts_T[MAX_NUMBER + 1 : 255].any()


def _binary(is_object_HW: Bool) -> U8:
    return np.where(is_object_HW, np.uint8(255), np.uint8(0))
