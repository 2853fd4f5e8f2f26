"""Outlines of masks along the edges of pixels, and masks of polygons. Pure.

Points are (x, y) in pixels; pixel (0, 0) has the corners (0, 0) and (1, 1). A mask that is traced
and filled again is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from a2s.labels.shapes.regions import Bool, Region

Points = npt.NDArray[np.int64]
"""Corners of a closed polygon. Shape: N 2."""
_FALLING, _RISING = 0b1001, 0b0110
"""Of the pixels around a point only upper left and lower right are inside, or the other two."""
_COPIES = np.asarray([0, 1, 1, 0, 1, 0, 2, 1, 1, 2, 0, 1, 0, 1, 1, 0])
"""How many corners of outlines are at a point, by the four pixels around it."""
_MAX_CROSSINGS = 1 << 26
_MAX_COORDINATE = 1e7


def outlines(region: Region) -> list[Points]:
    """One polygon for each 4-connected piece of an object.

    A hole is joined to the outline around it by a cut without width, which runs there and back.
    """
    rings = _rings(region.inside_hw)
    _, piece_hw = cv2.connectedComponents(region.inside_hw.astype(np.uint8), connectivity=4)
    outer: dict[int, Points] = {}
    holes: dict[int, list[Points]] = {}
    for ring in rings:
        x, y = ring[0].tolist()
        if region.inside_hw[y, x]:
            outer[int(piece_hw[y, x])] = ring
        else:
            # A ring starts at its upper left corner; above that of a hole is the piece around it.
            holes.setdefault(int(piece_hw[y - 1, x]), []).append(ring)
    offset = np.asarray([region.x, region.y])
    return [joined([ring, *holes.get(piece, [])]) + offset for piece, ring in outer.items()]


def joined(rings: Sequence[Points]) -> Points:
    """One polygon that encloses what an odd number of rings enclose.

    Every further ring is joined to the nearest corner of the first one by a cut without width.
    """
    first, *others = rings
    if not others:
        return first
    tree = KDTree(first)
    cuts: dict[int, list[Points]] = {}
    for ring in others:
        distance_N, corner_N = tree.query(ring)
        nearest = int(np.argmin(distance_N))
        start = np.roll(ring, -nearest, axis=0)
        cuts.setdefault(int(corner_N[nearest]), []).append(np.concatenate([start, start[:1]]))
    parts: list[Points] = []
    for begin, corner in pairwise([0, *sorted(cuts)]):
        parts.append(first[begin:corner])
        for ring in cuts[corner]:
            parts += [first[corner : corner + 1], ring]
    parts.append(first[max(cuts) :])
    return np.concatenate(parts)


def _rings(mask_hw: Bool) -> list[Points]:
    """Closed outlines of a mask and of its holes, each from its upper left corner to the right.

    In every row of points, corners alternate between the left and the right end of an edge; in
    every column likewise. Where two pixels touch at a corner only, two outlines meet.
    """
    padded = np.pad(mask_hw, 1).astype(np.uint8)
    code = padded[:-1, :-1] | padded[:-1, 1:] << 1 | padded[1:, :-1] << 2 | padded[1:, 1:] << 3
    y, x = np.nonzero(_COPIES[code])
    copies = _COPIES[code[y, x]]
    y, x, code_N = (np.repeat(values, copies) for values in (y, x, code[y, x]))
    # The first copy of a point has the edge to the left, the second that to the right.
    is_second = np.zeros(len(y), np.bool_)
    is_second[1:] = (y[1:] == y[:-1]) & (x[1:] == x[:-1])
    down_first = np.where(code_N == _RISING, ~is_second, is_second)
    in_columns = np.lexsort((down_first, y, x))
    above_or_below = np.empty_like(in_columns)
    above_or_below[in_columns] = in_columns.reshape(-1, 2)[:, ::-1].ravel()
    next_N, is_left = above_or_below.tolist(), [True] * len(y)
    found = []
    for start in range(len(y)):
        if not is_left[start]:
            continue
        ring, corner = [], start
        while is_left[corner]:
            beside = corner ^ 1
            is_left[corner] = is_left[beside] = False
            ring += [corner, beside]
            corner = next_N[beside]
        found.append(np.stack([x[ring], y[ring]], axis=1))
    return found


def polygon_mask(points: npt.ArrayLike, *, height: int, width: int) -> Bool:
    """The pixels whose middle lies inside a polygon, by the even-odd rule. Shape: height width.

    `points` are pairs (x, y), or their numbers one after the other.

    Raises:
        ValueError: they are no numbers, fewer than three pairs, far outside, or too many.
    """
    try:
        flat = np.asarray(points, dtype=np.float64).ravel()
    except (ValueError, TypeError, OverflowError):
        raise ValueError("a polygon holds something that is no number") from None
    if len(flat) < 6 or len(flat) % 2:
        raise ValueError(f"a polygon of {len(flat)} numbers is not three pairs or more")
    if not (np.abs(flat) < _MAX_COORDINATE).all():
        raise ValueError("a corner of a polygon lies nowhere near the image")
    corner = flat.reshape(-1, 2)
    following = np.roll(corner, -1, axis=0)
    # From top to bottom, so that a cut has the same rounding there and back.
    goes_down = (corner[:, 1] <= following[:, 1])[:, None]
    start, end = np.where(goes_down, corner, following), np.where(goes_down, following, corner)
    # Rows whose middle lies between the two ends of an edge.
    top, below = np.ceil(np.stack([start[:, 1], end[:, 1]]) - 0.5).clip(0, height).astype(np.int64)
    num_rows = below - top
    if num_rows.sum() > _MAX_CROSSINGS:
        raise ValueError("a polygon is too long")
    edge = np.repeat(np.arange(len(start)), num_rows)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(num_rows) - num_rows - top, num_rows)
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    crossing = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    column = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
    inside_HW = np.zeros((height, width), np.bool_)
    first, last = int(top.min()), int(below.max())
    position = (row - first) * (width + 1) + column
    crossings = np.bincount(position, minlength=(last - first) * (width + 1))
    total = np.cumsum(crossings.reshape(last - first, width + 1), axis=1)
    inside_HW[first:last] = total[:, :width] % 2 == 1
    return inside_HW
