"""How often each value of a map occurs, in the object and outside, in each quadrant. Pure.

All measures but the weighted F depend on these counts alone. A map of 8 bits has at most 256
values, however many pixels it has.

Legend: H W image, K values of a map, Q = 4 quadrants around the object's centroid, B = 2: outside
and in the object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import F64, Bool

_CELLS = 8
_EXACT = 2**24
"""Largest whole number up to which a float32 has all of them."""


@dataclass(frozen=True, eq=False)
class Levels:
    """A map after the min-max normalisation of its image.

    Shape: `values_HW` image; `value_K` ascending, each occurs; `count_KQB`
    """

    values_HW: F64
    value_K: F64
    count_KQB: NDArray[np.int64]

    @property
    def count_KB(self) -> NDArray[np.int64]:
        """Pixels by value, outside and in the object."""
        counts: NDArray[np.int64] = self.count_KQB.sum(axis=1)
        return counts


def cells(truth_HW: Bool) -> NDArray[np.uint16]:
    """Number the quadrant of each pixel, and whether it is in the object: 2 q + b.

    Shape: [H, W]
    """
    height, width = truth_HW.shape
    cell_HW = truth_HW.astype(np.uint16)
    num_true = np.count_nonzero(truth_HW)
    if num_true:
        # One past the rounded centroid, because the original's ranges include it.
        cut_y = int(np.round(truth_HW.sum(axis=1) @ np.arange(height) / num_true)) + 1
        cut_x = int(np.round(truth_HW.sum(axis=0) @ np.arange(width) / num_true)) + 1
        cell_HW[cut_y:] += 4
        cell_HW[:, cut_x:] += 2
    return cell_HW


def _counts(at_HW: NDArray[np.uint16], number: int) -> NDArray[np.int64]:
    """How often each of the values 0 to `number` - 1 occurs."""
    if at_HW.size > _EXACT:
        return np.bincount(at_HW.ravel(), minlength=number)
    # Three times as fast, and its floats are exact up to there.
    counted_N1: Any = cv2.calcHist([at_HW], [0], None, [number], [0, number])
    counts_N: NDArray[np.int64] = counted_N1[:, 0].astype(np.int64)
    return counts_N


def levels(prediction_HW: NDArray[Any], cell_HW: NDArray[np.uint16]) -> Levels:
    """Normalise and count a map.

    Shape: [H, W]. Range: uint8 0..255, or floating point 0..1.
    """
    index_HW: NDArray[Any]
    at_HW: NDArray[Any]
    is_byte = prediction_HW.dtype == np.uint8
    if is_byte:
        raw_K, index_HW = np.arange(256) / 255, np.ascontiguousarray(prediction_HW)
        at_HW = index_HW.astype(np.uint16) * np.uint16(_CELLS) + cell_HW
        count_N = _counts(at_HW, len(raw_K) * _CELLS)
    else:
        raw_K, inverse = np.unique(prediction_HW.astype(np.float64), return_inverse=True)
        index_HW = inverse.reshape(prediction_HW.shape)
        at_HW = index_HW * _CELLS + cell_HW
        count_N = np.bincount(at_HW.ravel(), minlength=len(raw_K) * _CELLS)
    count_KQB = count_N.reshape(-1, 4, 2)
    occurs = np.flatnonzero(count_KQB.any(axis=(1, 2)))
    low, high = raw_K[occurs[0]], raw_K[occurs[-1]]
    value_K: F64 = raw_K if low == high else (raw_K - low) / (high - low)
    values_HW: Any = cv2.LUT(index_HW, value_K) if is_byte else value_K[index_HW]
    return Levels(np.asarray(values_HW), value_K[occurs], count_KQB[occurs])
