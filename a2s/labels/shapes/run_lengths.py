"""Run lengths of masks: of COCO (column by column, also compressed) and of CVAT (in a box). Pure.

Runs alternate between background and foreground and begin with background, which may be 0 long.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from a2s.labels.shapes.regions import Bool, Region

_BITS = 5
_MAX_CHARACTERS = 8
"""Five bits each: more than an image has pixels."""
_FIRST = ord("0")
_CONTINUED, _SIGN = 0x20, 0x10


def coco_counts(region: Region) -> list[int]:
    """Run lengths of an object over its whole image, column by column."""
    inside_wh = region.inside_hw.T
    if inside_wh.shape[1] < region.height:
        # A pixel between columns, so that no run goes on from one to the next.
        inside_wh = np.pad(inside_wh, ((0, 0), (0, 1)))
    column, row = np.divmod(_edges(inside_wh.ravel()), inside_wh.shape[1])
    edges = (column + region.x) * region.height + row + region.y
    return _counts(edges, region.height * region.width)


def row_counts(region: Region) -> list[int]:
    """Run lengths of an object over its whole image, row by row."""
    size = {"height": region.width, "width": region.height}
    return coco_counts(Region(region.y, region.x, region.inside_hw.T, **size))


def cvat_counts(region: Region) -> list[int]:
    """Run lengths of an object inside its box, row by row."""
    return _counts(_edges(region.inside_hw.ravel()), region.inside_hw.size)


def _edges(inside_N: Bool) -> npt.NDArray[np.int64]:
    """Where runs of foreground begin and end, alternately."""
    padded = np.pad(inside_N, 1)
    return np.flatnonzero(padded[1:] != padded[:-1])


def _counts(edges: npt.NDArray[np.int64], num_pixels: int) -> list[int]:
    counts: list[int] = np.diff(edges, prepend=0).tolist()
    return counts if edges[-1] == num_pixels else [*counts, num_pixels - int(edges[-1])]


def compress(counts: Sequence[int]) -> str:
    """COCO's text of run lengths: from the fourth on differences to the last but one.

    A number is written five bits at a time, lowest first; a sixth bit says that more follow.
    """
    text = []
    for position, count in enumerate(counts):
        rest = count - counts[position - 2] if position > 2 else count
        while True:
            bits, rest = rest & 0x1F, rest >> _BITS
            if rest == (-1 if bits & _SIGN else 0):
                text.append(bits)
                break
            text.append(bits | _CONTINUED)
    return "".join(chr(bits + _FIRST) for bits in text)


def decompress(text: str) -> list[int]:
    """Run lengths from COCO's text.

    Raises:
        ValueError: it holds other characters, ends within a number, or has one that is too large.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - _FIRST
        if not 0 <= bits < 2 * _CONTINUED:
            raise ValueError(f"{character!r} is no character of compressed run lengths")
        if shift == _BITS * _MAX_CHARACTERS:
            raise ValueError("a run length is too large")
        value |= (bits & 0x1F) << shift
        shift += _BITS
        if bits & _CONTINUED:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths end within a number")
    return counts


def coco_mask(counts: Iterable[int], *, height: int, width: int) -> Bool:
    """The mask of COCO's run lengths. Shape: height width.

    Raises:
        ValueError: they are not whole numbers from 0 on, or their sum is not the number of pixels.
    """
    lengths = list(counts)
    if any(type(length) is not int or length < 0 for length in lengths):
        raise ValueError("a run length is not a whole number from 0 on")
    # Summed as Python's integers, which do not overflow.
    if (total := sum(lengths)) != height * width:
        raise ValueError(f"run lengths cover {total:,} pixels, the image has {height * width:,}")
    is_inside = np.arange(len(lengths)) % 2 == 1
    mask_WH: Bool = np.repeat(is_inside, lengths).reshape(width, height)
    return np.ascontiguousarray(mask_WH.T)
