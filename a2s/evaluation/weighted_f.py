"""The weighted F-measure, in two parts: what depends on the truth alone, and the rest. Pure.

The first part takes a good part of the time, and serves every prediction that is scored on the same
truth.

Reference: Margolin, Zelnik-Manor, Tal, "How to Evaluate Foreground Maps?", CVPR 2014
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import F64, Bool
from a2s.evaluation.nearest import nearest_object

_RADIUS = 3
_LONGEST_TABLE = 1 << 20
"""Largest squared distance whose weight is looked up."""


def _gaussian(*, radius: int, sigma: float) -> F64:
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    return np.asarray(weights / weights.sum(), dtype=np.float64)


_KERNEL = _gaussian(radius=_RADIUS, sigma=5)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What the measure needs to know of a truth.

    `box` holds the object, padded by the blur's radius. Flat indices into the box: `nearest_hw` of
    the object pixel nearest to each pixel, `object_M` of the object itself. `weight_HW` says how
    much an error of a background pixel counts: 1 at the object, 2 far from it; 0 in the object.

    Shape: image H W, box h x w, M object pixels
    """

    box: tuple[slice, slice]
    truth_hw: Bool
    nearest_hw: NDArray[np.intp]
    object_M: NDArray[np.intp]
    weight_HW: F64


def surroundings(truth_HW: Bool) -> Surroundings:
    """Compute what all predictions share; the truth must not be empty.

    Shape: [H, W]
    """
    # The nearest object pixel is in the box, as is every object pixel.
    box = (_extent(truth_HW, axis=1), _extent(truth_HW, axis=0))
    truth_hw = np.ascontiguousarray(truth_HW[box])
    squared_HW, nearest_hw = nearest_object(truth_HW, box)
    weight_HW = _weights(squared_HW)
    return Surroundings(box, truth_hw, nearest_hw, np.flatnonzero(truth_hw), weight_HW)


def _weights(squared_HW: NDArray[np.int64]) -> F64:
    """Weight of an error at each pixel by its squared distance from the object."""
    most = int(squared_HW.max())
    if most > _LONGEST_TABLE:
        return _weight(squared_HW)
    return _table(1 << most.bit_length()).take(squared_HW)


@functools.lru_cache(maxsize=4)
def _table(size: int) -> F64:
    return _weight(np.arange(size))


def _weight(squared: NDArray[np.int64]) -> F64:
    weight = 2 - np.exp(np.log(0.5) / 5 * np.sqrt(squared))
    weight[squared == 0] = 0
    return np.asarray(weight, dtype=np.float64)


def weighted_f(values_HW: F64, around: Surroundings, epsilon: float) -> float:
    """Return the weighted F-measure with beta 1.

    Shape: [H, W]
    Range: values and result [0, 1]
    """
    error_hw = np.abs(values_HW[around.box] - around.truth_hw)
    # Background pixels take the error of their nearest object pixel, so that the blur does not
    # mix background errors into the object's edge. Only the object's box is blurred because only
    # that part of the result is used.
    inside_hw = error_hw.ravel().take(around.nearest_hw)
    # The 7x7 Gaussian as two 1-D passes: 14 products per pixel instead of 49.
    blurred_hw = np.asarray(
        cv2.sepFilter2D(inside_hw, -1, _KERNEL, _KERNEL, borderType=cv2.BORDER_CONSTANT)
    )
    object_M = around.object_M
    error_M = np.minimum(blurred_hw.ravel().take(object_M), error_hw.ravel().take(object_M))
    # The error of a background pixel is its value.
    false_weight = float(np.vdot(values_HW, around.weight_HW))
    true_weight = float(len(error_M) - np.sum(error_M))
    recall = 1 - float(np.mean(error_M))
    precision = true_weight / (true_weight + false_weight + epsilon)
    return 2 * recall * precision / (recall + precision + epsilon)


def _extent(truth_HW: Bool, *, axis: int) -> slice:
    """Return the object's extent across `axis`, padded by the blur's radius within the image."""
    where = np.flatnonzero(truth_HW.any(axis=axis))
    return slice(max(int(where[0]) - _RADIUS, 0), int(where[-1]) + _RADIUS + 1)
