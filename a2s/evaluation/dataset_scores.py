"""Scores of a data set: sums of image scores that merge exactly, in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import F64
from a2s.evaluation.metrics import NAMES, NUM_THRESHOLDS, ImageScores, f_measure

_SCALARS = ("mae", "adaptive_f", "weighted_f", "s_measure", "e_adaptive")
_CURVES = ("precision", "recall", "f", "e")

# Every value is summed as a multiple of 2**-52 in two int64 limbs. Integer sums do not depend on
# their order, so results are equal to the bit for any grouping of the images.
_UNIT_BITS = 52
_LOW_BITS = 26
_LENGTH = len(_SCALARS) + len(_CURVES) * NUM_THRESHOLDS


def _zeros() -> NDArray[np.int64]:
    return np.zeros(_LENGTH, dtype=np.int64)


@dataclass(eq=False)
class DatasetScores:
    """Sums of scores over images, of constant size; merging gives the same result in any order."""

    num_images: int = 0
    _high: NDArray[np.int64] = field(default_factory=_zeros)
    _low: NDArray[np.int64] = field(default_factory=_zeros)

    def add(self, scores: ImageScores) -> None:
        """Add the scores of one image."""
        scalars = [getattr(scores, name) for name in _SCALARS]
        curves = [getattr(scores, f"{name}_T") for name in _CURVES]
        units = np.rint(np.concatenate([scalars, *curves]) * 2.0**_UNIT_BITS).astype(np.int64)
        self._high += units >> _LOW_BITS
        self._low += units & (2**_LOW_BITS - 1)
        self.num_images += 1

    def merge(self, other: DatasetScores) -> None:
        """Add the sums of another part."""
        self._high += other._high
        self._low += other._low
        self.num_images += other.num_images

    def curves(self) -> dict[str, F64]:
        """Return the mean `precision`, `recall`, `f` and `e` curves, threshold 255 first."""
        parts = np.split(self._means()[len(_SCALARS) :], len(_CURVES))
        return dict(zip(_CURVES, parts, strict=True))

    def summary(self) -> dict[str, float]:
        """Return the data set's scores; F and E curves are averaged over images first.

        `max_f_official` is computed from the mean precision and recall instead, like the authors'
        code.

        Reference: `adaptive_f` is the paper's ave-F; `mean_f` the text's mean over thresholds.
        """
        mae, adaptive_f, weighted_f, s_measure, e_adaptive = self._means()[: len(_SCALARS)].tolist()
        f_T, e_T = self.curves()["f"], self.curves()["e"]
        precision_T, recall_T = self.curves()["precision"], self.curves()["recall"]
        values = (
            mae,
            adaptive_f,
            float(f_T.mean()),
            float(f_T.max()),
            weighted_f,
            s_measure,
            float(e_T.mean()),
            e_adaptive,
        )
        # The authors' bins end at 254, so their curve has no threshold 255.
        of_means_T = f_measure(precision_T[1:], recall_T[1:])
        return {
            **dict(zip(NAMES, values, strict=True)),
            "max_f_official": float(of_means_T.max()),
        }

    def _means(self) -> F64:
        assert self.num_images > 0
        divisor = self.num_images << _UNIT_BITS
        pairs = zip(self._high.tolist(), self._low.tolist(), strict=True)
        return np.array([((high << _LOW_BITS) + low) / divisor for high, low in pairs])
