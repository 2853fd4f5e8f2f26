"""Where to cut an activation map in two, and how good a cut is.

A map's pixels at or above a threshold are one group, those below it the other. Shapes: any.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from a2s.evaluation.pictures.cells import Map, normalised


def sigmoid(theta: Map) -> NDArray[np.float64]:
    """Turn a map less its mean into a probability, as Eqn 6 does.

    Range: 0..1
    """
    # tanh does not overflow where exp(-x) would.
    p: NDArray[np.float64] = 0.5 + 0.5 * np.tanh(0.5 * theta.astype(np.float64))
    return p


def inter_class_variance(values: Map, threshold: float) -> float:
    """Measure how well a threshold parts a map, V = p1 p2 (mu1 - mu2)^2; 0 when one side is empty.

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
    """Find the threshold of largest inter-class variance among all that a map has; no histogram.

    The lowest of the best, and always one of the map's values.

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
    """Average of a map, the adaptive decision boundary.

    Reference: Eqn 3
    """
    return float(values.mean(dtype=np.float64))


def median(values: Map) -> float:
    """Value that has as many pixels above as below."""
    return float(np.median(values))


STRATEGIES: dict[str, Callable[[Map], float]] = {"Otsu": otsu, "mean": mean, "median": median}
"""By name, in the order of Table I."""

READINGS: dict[str, Callable[[Map], NDArray[np.float64]]] = {
    "min-max": normalised,
    "sigmoid": sigmoid,
}
"""How theta becomes values in 0..1. The paper does not say, but its V is not the first's."""
