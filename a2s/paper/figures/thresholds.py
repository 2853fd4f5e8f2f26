"""Thresholds of an activation map, and the inter-class variance that measures them.

Pixels at or above a threshold form one class, pixels below it the other. Shapes: any.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from a2s.evaluation.pictures.cells import Map, normalised


def to_probability(theta: Map) -> NDArray[np.float64]:
    """Turn theta, the map minus its mean, into a probability by the sigmoid of Eqn 6.

    Range: 0..1
    """
    # tanh does not overflow where exp(-x) would.
    p: NDArray[np.float64] = 0.5 + 0.5 * np.tanh(0.5 * theta.astype(np.float64))
    return p


def inter_class_variance(values: Map, threshold: float) -> float:
    """Compute the inter-class variance V = p1 p2 (mu1 - mu2)^2; 0 when a class is empty.

    Range: 0..0.25 for values in 0..1
    Reference: Eqn 2
    """
    above = values >= threshold
    share = float(above.mean())
    if share in (0.0, 1.0):
        return 0.0
    distance = float(values[above].mean(dtype=np.float64) - values[~above].mean(dtype=np.float64))
    return share * (1 - share) * distance**2


def otsu(values: Map) -> float:
    """Find the threshold with the largest inter-class variance, over all values and no histogram.

    The threshold is always a value of the map; of several best ones it is the lowest.

    Reference: Otsu 1979; Sec. III-A
    """
    sorted_N = np.sort(values, axis=None)
    sums_N = np.cumsum(sorted_N, dtype=np.float64)
    below_M = np.flatnonzero(sorted_N[1:] > sorted_N[:-1]) + 1
    if not below_M.size:
        return float(sorted_N[0])
    share_M = below_M / sorted_N.size
    # p1 p2 (mu1 - mu2)^2 = (mu p1 - mu1 p1)^2 / (p1 p2), without the second group's sum.
    part_M, mean = sums_N[below_M - 1] / sorted_N.size, sums_N[-1] / sorted_N.size
    variance_M = (mean * share_M - part_M) ** 2 / (share_M * (1 - share_M))
    return float(sorted_N[below_M[int(variance_M.argmax())]])


def mean(values: Map) -> float:
    """Mean of a map: the adaptive decision boundary.

    Reference: Eqn 3
    """
    return float(values.mean(dtype=np.float64))


def median(values: Map) -> float:
    """Median of a map."""
    return float(np.median(values))


STRATEGIES: dict[str, Callable[[Map], float]] = {"Otsu": otsu, "mean": mean, "median": median}
"""Thresholds by name, in the order of Table I."""

SCALINGS: dict[str, Callable[[Map], NDArray[np.float64]]] = {
    "min-max": normalised,
    "sigmoid": to_probability,
}
"""Ways to scale theta to 0..1. The paper does not say which; its V does not fit min-max."""
