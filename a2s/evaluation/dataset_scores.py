"""Scores of a data set: sums of image scores that merge exactly, in any order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import F64
from a2s.evaluation.metrics import NAMES, NUM_THRESHOLDS, ImageScores, f_measure

_SCALARS = (
    *("mae", "adaptive_f", "weighted_f", "s_measure", "e_adaptive"),
    *("ring_share", "truth_ring_share"),
)
_CURVES = ("precision", "recall", "f", "e")

# Every value is summed as a multiple of 2**-52 in two int64 limbs. Integer sums do not depend on
# their order, so results are equal to the bit for any grouping of the images.
_UNIT_BITS = 52
_LOW_BITS = 26
# The last sum is that of adaptive F over the images whose object touches the border.
_LENGTH = len(_SCALARS) + len(_CURVES) * NUM_THRESHOLDS + 1


def _zeros() -> NDArray[np.int64]:
    return np.zeros(_LENGTH, dtype=np.int64)


@dataclass(eq=False)
class DatasetScores:
    """Sums of scores over images, of constant size; merging gives the same result in any order."""

    num_images: int = 0
    num_touching: int = 0
    """Images whose object touches the image border."""
    _high: NDArray[np.int64] = field(default_factory=_zeros)
    _low: NDArray[np.int64] = field(default_factory=_zeros)

    def add(self, scores: ImageScores) -> None:
        """Add the scores of one image."""
        scalars = [getattr(scores, name) for name in _SCALARS]
        curves = [getattr(scores, f"{name}_T") for name in _CURVES]
        touching = [scores.adaptive_f if scores.touches_border else 0.0]
        values = np.concatenate([scalars, *curves, touching])
        units = np.rint(values * 2.0**_UNIT_BITS).astype(np.int64)
        self._high += units >> _LOW_BITS
        self._low += units & (2**_LOW_BITS - 1)
        self.num_images += 1
        self.num_touching += scores.touches_border

    def merge(self, other: DatasetScores) -> None:
        """Add the sums of another part."""
        self._high += other._high
        self._low += other._low
        self.num_images += other.num_images
        self.num_touching += other.num_touching

    def curves(self) -> dict[str, F64]:
        """Return the mean `precision`, `recall`, `f` and `e` curves, threshold 255 first."""
        parts = np.split(self._means()[len(_SCALARS) : -1], len(_CURVES))
        return dict(zip(_CURVES, parts, strict=True))

    def summary(self) -> dict[str, Any]:
        """Return the data set's scores; F and E curves are averaged over images first.

        `max_f_official` is computed from the mean precision and recall instead, like the authors'
        code. `adaptive_f_touching` is the mean over the `num_touching` images whose object touches
        the image border, `adaptive_f_not_touching` that over the others; None without such images.

        Reference: `adaptive_f` is the paper's ave-F; `mean_f` the text's mean over thresholds.
        """
        means = dict(zip(_SCALARS, self._means().tolist(), strict=False))
        f_T, e_T = self.curves()["f"], self.curves()["e"]
        precision_T, recall_T = self.curves()["precision"], self.curves()["recall"]
        of_curves = {
            "mean_f": float(f_T.mean()),
            "max_f": float(f_T.max()),
            "e_measure": float(e_T.mean()),
        }
        named = means | of_curves
        # The authors' bins end at 254, so their curve has no threshold 255.
        of_means_T = f_measure(precision_T[1:], recall_T[1:])
        sums = self._sums()
        all_f, touching_f = sums[_SCALARS.index("adaptive_f")], sums[-1]
        num_others = self.num_images - self.num_touching
        return {
            **{name: named[name] for name in NAMES},
            "max_f_official": float(of_means_T.max()),
            "num_touching": self.num_touching,
            "adaptive_f_touching": _mean(touching_f, self.num_touching),
            "adaptive_f_not_touching": _mean(all_f - touching_f, num_others),
        }

    def _sums(self) -> list[int]:
        """Exact sums in units of 2**-52."""
        pairs = zip(self._high.tolist(), self._low.tolist(), strict=True)
        return [(high << _LOW_BITS) + low for high, low in pairs]

    def _means(self) -> F64:
        assert self.num_images > 0
        return np.array([total / (self.num_images << _UNIT_BITS) for total in self._sums()])


def _mean(total: int, count: int) -> float | None:
    return total / (count << _UNIT_BITS) if count else None


OWN = ""
"""Name of the predictions' row; the other rows are baselines."""


class RowScores:
    """Sums for every row of a table: the predictions and the baselines on the same truths."""

    def __init__(self) -> None:
        self._rows: defaultdict[str, DatasetScores] = defaultdict(DatasetScores)

    @property
    def own(self) -> DatasetScores:
        """The sums of the predictions."""
        return self._rows[OWN]

    def add(self, scores: Mapping[str, ImageScores]) -> None:
        """Add the scores of one image by row; an image may lack a row."""
        for name, found in scores.items():
            self._rows[name].add(found)

    def merge(self, other: RowScores) -> None:
        """Add the sums of another part."""
        for name, found in other._rows.items():
            self._rows[name].merge(found)

    def summary(self) -> dict[str, Any]:
        """Return all scores in one flat mapping; `centre_mae` is the MAE of the row `centre`."""
        summary: dict[str, Any] = {}
        for name, row in sorted(self._rows.items()):
            prefix = f"{name}_" if name else ""
            values = row.summary() | {"num_images": row.num_images}
            summary |= {f"{prefix}{key}": value for key, value in values.items()}
        return summary
