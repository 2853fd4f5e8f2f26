"""Quality numbers of a pseudo label that need no ground truth.

Shapes: H W the image's own size, h w the map's, T the side of a thumbnail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from a2s.data.arrays import F32, F64, U8, Bool

THUMBNAIL_PX = 96
"""Side of the square on which colours are compared; also the most that a map is looked at with."""
NO_OBJECT_PEAK = 0.75
"""Maps whose peak is lower show no salient object: 4 % of photographs with one, 73 % of crops of
their background, all of 30 textures (benchmarks/results/label_quality.json)."""

Source = Literal["votes", "head", "detector", "rbd"]
"""What a label comes from: a vote of stage 1's heads, one head, a detector, or RBD."""

_NEAR_PX = 7
"""How far from the label the background is compared with it, in pixels of a thumbnail."""
_COLOUR_BITS = 3
_PEAK_QUANTILE = 0.98


@dataclass(frozen=True)
class Quality:
    """Quality numbers of one label; each is a column of the label shards."""

    quality: float
    """F-measure that is expected of the label, 0 to 1 (`expected_f`)."""
    no_object: bool
    """Whether nothing in the image stands out (`NO_OBJECT_PEAK`), or the label is empty."""
    area_share: float
    """Foreground pixels / all pixels of the label."""
    border_contact: float
    """Foreground pixels on the image border / border pixels."""
    decision_margin: float
    """Mean of |probability - 0.5|: 0 undecided, 0.5 certain."""
    sign_margin: float
    """|0.5 - positive pixels / all pixels| of the map: near 0 the sign (Eqn 5) is uncertain."""
    crf_agreement: float
    """Intersection over union of the foreground before and after refinement."""
    num_components: int
    """Number of 8-connected foreground regions."""
    map_overlap: float
    """Intersection over union of the label and the map's probabilities, 0 to 1."""
    map_inside: float
    """Mean probability of the map inside the label, 0 to 1."""
    map_peak: float
    """Probability that 2 % of the map's pixels exceed, 0 to 1."""
    colour_contrast: float
    """How little the label's colours occur around it: 0 (as often) to 1 (not at all)."""
    inverted: bool
    """Whether the sign of Eqn 5 is negative."""


@dataclass(frozen=True)
class QualityWeights:
    """Linear model of a label's adaptive F-measure (`expected_f`); one for every `Source`.

    A detector's masks are sharp whether they are right or not, and RBD is sure of what it finds:
    by the weights of votes their labels would look 0.1 better than they are.
    """

    intercept: float
    map_overlap: float
    map_inside: float
    colour_contrast: float
    border_contact: float
    components: float
    area: float
    decision_margin: float
    growth: float


@dataclass(frozen=True)
class MapQuality:
    """How a label lies on the map that it comes from."""

    overlap: float
    inside: float
    peak: float


WEIGHTS: dict[Source, QualityWeights] = {
    "votes": QualityWeights(-0.29, -0.2, 0.738, 0.214, -1.105, -0.022, 0.637, 1.031, 1.205),
    "head": QualityWeights(-0.181, 0.296, 0.313, 0.26, -1.431, -0.05, 0.568, 0.76, 0.428),
    "detector": QualityWeights(-0.228, 0.683, 0.046, 0.143, -1.184, -0.041, 0.203, 0.813, -0.244),
    "rbd": QualityWeights(0.356, 0.683, -0.588, 0.008, -2.086, -0.066, 0.779, 0.818, -0.98),
}
"""Fitted by `benchmarks/label_quality.py`."""


def border_contact(mask_HW: Bool | F64) -> float:
    """Compute the share of border pixels that are foreground, or the mean of a soft map there."""
    outer_HW = np.ones(mask_HW.shape, dtype=np.bool_)
    outer_HW[1:-1, 1:-1] = False
    return float(mask_HW[outer_HW].mean())


def agreement(a_HW: Bool, b_HW: Bool) -> float:
    """Compute the intersection over union; 1 if both masks are empty."""
    union = np.count_nonzero(a_HW | b_HW)
    return float(np.count_nonzero(a_HW & b_HW) / union) if union else 1.0


def num_components(mask_HW: Bool) -> int:
    """Count the 8-connected foreground regions."""
    count, _ = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
    return int(count) - 1


def thumbnail(image_HW3: U8) -> U8:
    """Reduce an image to the size on which colours are compared. Shape: H W 3 -> T T 3."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    return np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA))


def map_quality(probability_hw: F32, mask_HW: Bool) -> MapQuality:
    """Compare a label with the probabilities that it comes from, at the size of the map.

    Shape: h w, H W
    """
    height, width = (min(side, THUMBNAIL_PX) for side in probability_hw.shape)
    map_hw = _shrink(probability_hw, height, width)
    label_hw = _shrink(mask_HW.astype(np.float32), height, width)
    union, area = float(np.maximum(map_hw, label_hw).sum()), float(label_hw.sum())
    return MapQuality(
        overlap=float(np.minimum(map_hw, label_hw).sum()) / union if union else 0.0,
        inside=float((map_hw * label_hw).sum()) / area if area else 0.0,
        peak=float(np.quantile(map_hw, _PEAK_QUANTILE)),
    )


def colour_contrast(thumbnail_TT3: U8, mask_HW: Bool) -> float:
    """Compare the colours inside a label with those just outside: 1 - overlap of histograms in Lab.

    0 where there is no inside or no outside.

    Shape: T T 3, H W. Range: 0..1
    """
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    inside = cv2.resize(mask_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    near = np.ones((2 * _NEAR_PX + 1, 2 * _NEAR_PX + 1), np.uint8)
    outside = (cv2.dilate(inside, near) > 0) & (inside == 0)
    lab_TT3 = np.asarray(cv2.cvtColor(thumbnail_TT3, cv2.COLOR_RGB2LAB), dtype=np.int64)
    weight_3 = np.array([1 << 2 * _COLOUR_BITS, 1 << _COLOUR_BITS, 1])
    colour_TT = (lab_TT3 >> (8 - _COLOUR_BITS)) @ weight_3
    counts = [
        np.bincount(colour_TT[part], minlength=1 << 3 * _COLOUR_BITS)
        for part in (inside > 0, outside)
    ]
    if not (counts[0].any() and counts[1].any()):
        return 0.0
    shares = [count / count.sum() for count in counts]
    return float(1 - np.minimum(*shares).sum())


def expected_f(
    on_map: MapQuality,
    *,
    colour_contrast: float,
    border_contact: float,
    num_components: int,
    area_share: float,
    decision_margin: float,
    sign_margin: float,
    weights: QualityWeights,
) -> float:
    """Estimate a label's adaptive F-measure; 0 for an empty label.

    The weights are fitted to labels of photographs, and judged on labels of another seed and other
    images (`benchmarks/label_quality.py`). There, few objects touch much of the border or take more
    than half of the image, so how much beyond 0.3 and 0.5 does not matter. `growth` is how much
    larger the label is than the map's smaller side, at most 0.1 either way.

    Range: 0..1
    """
    if area_share == 0:
        return 0.0
    value = (
        weights.intercept
        + weights.map_overlap * on_map.overlap
        + weights.map_inside * on_map.inside
        + weights.colour_contrast * colour_contrast
        + weights.border_contact * min(border_contact, 0.3)
        + weights.components * math.log1p(num_components)
        + weights.area * min(area_share, 0.5)
        + weights.decision_margin * decision_margin
        + weights.growth * min(max(area_share - (0.5 - sign_margin), -0.1), 0.1)
    )
    return min(max(value, 0.0), 1.0)


def _shrink(values_hw: npt.NDArray[np.float32], height: int, width: int) -> F32:
    if values_hw.shape == (height, width):
        return values_hw
    shrunk_hw = cv2.resize(values_hw, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk_hw, dtype=np.float32)
