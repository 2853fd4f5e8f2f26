"""The nearest object pixel of every pixel, compiled. Pure.

Reference: Maurer, Qi, Raghavan, "A Linear Time Algorithm for Computing Exact Euclidean Distance
Transforms of Binary Images in Arbitrary Dimensions", PAMI 2003
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import Bool
from a2s.labels.crf.numba_backend.jit import exact

_I64 = NDArray[np.int64]


def nearest_object(truth_HW: Bool, box: tuple[slice, slice]) -> tuple[_I64, _I64]:
    """Squared distance from the nearest object pixel, and within the box which one that is.

    The box must hold all of the object, of which there must be some. Indices are flat, into the
    box. Of pixels that are equally near it is the one that `scipy.ndimage.distance_transform_edt`
    finds, as other programs of the measure use it.

    Shape: H W -> H W, h w of the box
    """
    rows, columns = (side.indices(size) for side, size in zip(box, truth_HW.shape, strict=True))
    squared_HW = np.empty(truth_HW.shape, np.int64)
    nearest_hw = np.empty((rows[1] - rows[0], columns[1] - columns[0]), np.int64)
    _transform(truth_HW, rows[0], columns[0], squared_HW, nearest_hw)
    return squared_HW, nearest_hw


@exact
def _transform(truth_HW, top, left, squared_HW, nearest_hw):  # type: ignore[no-untyped-def]
    height, width = truth_HW.shape
    box_height, box_width = nearest_hw.shape
    # The nearest object pixel of the same column; of two the upper one.
    none = -1
    row_HW = np.empty((height, width), np.int32)
    for x in range(width):
        row_HW[0, x] = 0 if truth_HW[0, x] else none
    for y in range(1, height):
        for x in range(width):
            row_HW[y, x] = y if truth_HW[y, x] else row_HW[y - 1, x]
    below_W = np.full(width, none, np.int32)
    for y in range(height - 1, -1, -1):
        for x in range(width):
            if truth_HW[y, x]:
                below_W[x] = y
            above, below = row_HW[y, x], below_W[x]
            if below >= 0 and (above < 0 or below - y < y - above):
                row_HW[y, x] = below
    # Along a row, columns whose pixel is the nearest one somewhere; then walk along both.
    column_K, gap_K = np.empty(width, np.int64), np.empty(width, np.float64)
    for y in range(height):
        last = -1
        for x in range(width):
            if row_HW[y, x] < 0:
                continue
            gap = float(row_HW[y, x] - y) ** 2
            while last >= 1:
                a = float(column_K[last] - column_K[last - 1])
                b = float(x - column_K[last])
                c = a + b
                if c * gap_K[last] - b * gap_K[last - 1] - a * gap - a * b * c <= 0:
                    break
                last -= 1
            last += 1
            column_K[last], gap_K[last] = x, gap
        at = 0
        for x in range(width):
            distance = float(column_K[at] - x) ** 2 + gap_K[at]
            while at < last:
                further = float(column_K[at + 1] - x) ** 2 + gap_K[at + 1]
                if distance <= further:
                    break
                distance = further
                at += 1
            squared_HW[y, x] = int(distance)
            if top <= y < top + box_height and left <= x < left + box_width:
                column = column_K[at]
                position = (row_HW[y, column] - top) * box_width + column - left
                nearest_hw[y - top, x - left] = position
