"""Quality numbers of a pseudo label that need no ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from a2s.data.arrays import F64, Bool


@dataclass(frozen=True)
class Quality:
    """Quality numbers of one label; each is a column of the label shards."""

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
    inverted: bool
    """Whether the sign of Eqn 5 is negative."""


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
