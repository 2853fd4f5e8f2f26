"""Saliency scores of one image.

Legend: H, W = the truth's height and width; T = 256 thresholds, first 255, last 0.

By default the scores equal those of pysodmetrics; the tests check this within 1e-12. The
"official" convention equals the authors' code instead. It differs in the truth's threshold, in the
degrees of freedom of S, and in a constant of the weighted F (`CONVENTIONS`). This module does not
call the library, for speed: counts of the map's values (`levels.py`) serve all measures but the
weighted F, whose two 1-D passes over the object's box replace a dense convolution of the image, and
importing the library (it imports scikit-learn) would cost every worker seconds.

In two cases the library returns values that would spoil every mean. This module defines them:
the E-measure of a single pixel (the library divides by zero; the divisor is 1 here), and the
S-measure of a map whose centroid leaves a quadrant empty, such as any 1xN image (the library
returns NaN; an empty quadrant has weight 0 here).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import F64, Bool
from a2s.evaluation.levels import Levels, cells, levels
from a2s.evaluation.weighted_f import Surroundings, surroundings, weighted_f

LIBRARY = "pysodmetrics"
"""The reference implementation of these measures."""
LIBRARY_VERSION = version(LIBRARY)
BETA_SQUARE = 0.3
NUM_THRESHOLDS = 256
NAMES = (
    "mae",
    "adaptive_f",
    "mean_f",
    "max_f",
    "weighted_f",
    "s_measure",
    "e_measure",
    "e_adaptive",
    "ring_share",
    "truth_ring_share",
)
_EPS = float(np.spacing(1))


class Convention(NamedTuple):
    """Options in which two implementations of the same measures differ.

    `ddof`: delta degrees of freedom of the standard deviations in S (its covariance always uses 1).
    `epsilon`: added to the denominators of the weighted F, which could be 0.
    `truth_above_128`: a mask is salient above 128, not above half of its own range.
    """

    ddof: int
    epsilon: float
    truth_above_128: bool


CONVENTIONS = {
    "pysodmetrics": Convention(ddof=1, epsilon=_EPS, truth_above_128=True),
    "official": Convention(ddof=0, epsilon=1e-6, truth_above_128=False),
}
ConventionName = Literal["pysodmetrics", "official"]
PYSODMETRICS = CONVENTIONS["pysodmetrics"]


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Scores of one prediction; curves run from threshold 255 down to 0.

    `ring_share` is the mean of the stretched map over the image's outermost pixels, which for a
    binary map is the foreground share there; `truth_ring_share` is that of the truth.

    Shape: curves [256].
    Range: [0, 1] (E may slightly exceed 1 on tiny images, by its definition).
    """

    mae: float
    adaptive_f: float
    weighted_f: float
    s_measure: float
    e_adaptive: float
    ring_share: float
    truth_ring_share: float
    precision_T: F64
    recall_T: F64
    f_T: F64
    e_T: F64

    @property
    def touches_border(self) -> bool:
        """Whether the object of the truth reaches the outermost pixels."""
        return self.truth_ring_share > 0

    def row(self) -> dict[str, float]:
        """Return this image's numbers, its curves reduced to their mean and maximum."""
        values = (
            self.mae,
            self.adaptive_f,
            float(self.f_T.mean()),
            float(self.f_T.max()),
            self.weighted_f,
            self.s_measure,
            float(self.e_T.mean()),
            self.e_adaptive,
            self.ring_share,
            self.truth_ring_share,
        )
        return dict(zip(NAMES, values, strict=True))


def binary_truth(mask_HW: NDArray[np.uint8], convention: Convention = PYSODMETRICS) -> Bool:
    """Binarise a mask, which may be graded: above 128, or above half of its own range.

    A mask of a single value has no range: it is salient everywhere unless the value is 0.

    Shape: [H, W] -> the same.
    """
    if convention.truth_above_128:
        return mask_HW > 128
    low, high = int(mask_HW.min()), int(mask_HW.max())
    if low == high:
        return np.full(mask_HW.shape, high > 0)
    # Doubled integers: a value at exactly half of the range is not above it.
    return 2 * (mask_HW.astype(np.int32) - low) > high - low


def score(
    prediction_HW: NDArray[Any], truth_HW: Bool, convention: Convention = PYSODMETRICS
) -> ImageScores:
    """Score one map after the per-image min-max normalisation that the measures prescribe.

    Shape: both [H, W].
    Range: prediction uint8 0..255, or floating point 0..1; truth boolean.
    Reference: paper Sec. IV-A; adaptive F (threshold min(2*mean, 1)) is the tables' ave-F.
    """
    return score_each([prediction_HW], truth_HW, convention)[0]


def score_each(
    predictions: Sequence[NDArray[Any]], truth_HW: Bool, convention: Convention = PYSODMETRICS
) -> list[ImageScores]:
    """Score several maps on one truth as `score` does; what depends on the truth is computed once.

    Shape: all [H, W].
    """
    assert truth_HW.dtype == np.bool_
    around = surroundings(truth_HW) if truth_HW.any() else None
    cell_HW, ring_share = cells(truth_HW), _ring_share(truth_HW)
    scores = []
    for map_HW in predictions:
        assert map_HW.shape == truth_HW.shape
        scores.append(_score(levels(map_HW, cell_HW), around, ring_share, convention))
    return scores


def _score(
    counted: Levels,
    around: Surroundings | None,
    truth_ring_share: float,
    convention: Convention,
) -> ImageScores:
    value_K, count_KB = counted.value_K, counted.count_KB
    outside_K, inside_K = count_KB.T
    num_true, size = int(inside_K.sum()), int(count_KB.sum())

    # F and E share the counts of hits and false alarms at 256 thresholds and the adaptive one.
    level_K = (value_K * 255).astype(np.uint8)
    chosen_K = value_K >= min(2 * float(count_KB.sum(axis=1) @ value_K) / size, 1)
    hits = np.append(_at_or_above(level_K, inside_K), inside_K[chosen_K].sum())
    alarms = np.append(_at_or_above(level_K, outside_K), outside_K[chosen_K].sum())

    precision = hits / np.maximum(hits + alarms, 1)
    recall = hits / max(num_true, 1)
    f = f_measure(precision, recall)
    e = _e_measure(hits, alarms, num_true=num_true, size=size)
    errors = outside_K @ np.abs(value_K) + inside_K @ np.abs(value_K - 1)
    return ImageScores(
        mae=float(errors / size),
        adaptive_f=float(f[-1]),
        weighted_f=weighted_f(counted.values_HW, around, convention.epsilon) if around else 0.0,
        s_measure=_s_measure(counted, convention.ddof),
        e_adaptive=float(e[-1]),
        ring_share=_ring_share(counted.values_HW),
        truth_ring_share=truth_ring_share,
        precision_T=precision[:-1],
        recall_T=recall[:-1],
        f_T=f[:-1],
        e_T=e[:-1],
    )


def _ring_share(map_HW: Bool | F64) -> float:
    """Mean over the outermost pixels."""
    height, width = map_HW.shape
    sides = map_HW[1 : height - 1, :: max(width - 1, 1)]
    rows = map_HW[:: max(height - 1, 1)]
    return float(np.concatenate([rows.ravel(), sides.ravel()]).mean())


def _at_or_above(level_K: NDArray[np.uint8], count_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels at or above each of the thresholds 255 to 0."""
    counts = np.bincount(level_K, weights=count_K, minlength=NUM_THRESHOLDS)
    return np.cumsum(counts[::-1]).astype(np.int64)


def above_adaptive(values_HW: F64) -> Bool:
    """Binarise a map at the adaptive threshold min(2 * mean, 1)."""
    above_HW: Bool = values_HW >= min(2 * values_HW.mean(), 1)
    return above_HW


def f_measure(precision: F64, recall: F64) -> F64:
    """Compute F with beta^2 0.3 element by element; 0 where precision or recall is 0."""
    numerator = (1 + BETA_SQUARE) * precision * recall
    f: F64 = numerator / np.where(numerator == 0, 1, BETA_SQUARE * precision + recall)
    return f


def _e_measure(
    hits: NDArray[np.int64], alarms: NDArray[np.int64], *, num_true: int, size: int
) -> F64:
    """Return the enhanced alignment of binarised maps from their four counts (Fan et al. 2018)."""
    chosen = hits + alarms
    if num_true == 0:
        total = (size - chosen).astype(np.float64)
    elif num_true == size:
        total = chosen.astype(np.float64)
    else:
        missed = num_true - hits
        mean_p, mean_t = chosen / size, num_true / size
        total = np.zeros(len(hits))
        for count, p, t in (
            (hits, 1 - mean_p, 1 - mean_t),
            (alarms, 1 - mean_p, 0 - mean_t),
            (missed, 0 - mean_p, 1 - mean_t),
            (size - chosen - missed, 0 - mean_p, 0 - mean_t),
        ):
            alignment = 2 * (p * t) / (p**2 + t**2 + _EPS)
            total += (alignment + 1) ** 2 / 4 * count
    return total / (size - 1 + _EPS if size > 1 else 1)


def _s_measure(counted: Levels, ddof: int) -> float:
    """Return the structure measure: the mean of its object and region parts (Fan et al. 2017)."""
    value_K, count_KB = counted.value_K, counted.count_KB
    outside_K, inside_K = count_KB.T
    size = int(count_KB.sum())
    share = int(inside_K.sum()) / size
    if share in (0, 1):
        mean = float(count_KB.sum(axis=1) @ value_K) / size
        return mean if share else 1 - mean
    object_score = _object_score(value_K, inside_K, ddof) * share
    object_score += _object_score(1 - value_K, outside_K, ddof) * (1 - share)
    region_score = 0.0
    for count_KB_of_one in counted.count_KQB.transpose(1, 0, 2):
        weight = int(count_KB_of_one.sum()) / size
        if weight:
            region_score += _similarity(value_K, count_KB_of_one, ddof) * weight
    mean = (object_score + region_score) / 2
    return max(0.0, mean) if ddof else mean


def _object_score(value_K: F64, count_K: NDArray[np.int64], ddof: int) -> float:
    size = int(count_K.sum())
    mean = float(count_K @ value_K) / size
    square = float(count_K @ (value_K - mean) ** 2)
    deviation = math.sqrt(square / (size - ddof)) if size > 1 else 0
    return 2 * mean / (mean**2 + 1 + deviation + _EPS)


def _similarity(value_K: F64, count_KB: NDArray[np.int64], ddof: int) -> float:
    size, num_true = int(count_KB.sum()), int(count_KB[:, 1].sum())
    mean_v = float(count_KB.sum(axis=1) @ value_K) / size
    mean_t = num_true / size
    centred_K = value_K - mean_v
    covariance = float(centred_K @ (count_KB @ (-mean_t, 1 - mean_t))) / (size - 1 + _EPS)
    divisor = size - ddof + _EPS
    spread = float(count_KB.sum(axis=1) @ centred_K**2) / divisor
    spread += (num_true * (1 - mean_t) ** 2 + (size - num_true) * mean_t**2) / divisor
    alpha = 4 * mean_v * mean_t * covariance
    beta = (mean_v**2 + mean_t**2) * spread
    if alpha != 0:
        return alpha / (beta + _EPS)
    return 1.0 if beta == 0 else 0.0
