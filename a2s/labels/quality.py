"""Numbers by which a pseudo label can be judged without ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from a2s.data.arrays import Bool


@dataclass(frozen=True)
class Quality:
    """One row of the quality table."""

    area_share: float
    """Foreground pixels / all pixels of the label."""
    border_contact: float
    """Foreground pixels on the image border / border pixels."""
    decision_margin: float
    """Mean distance of the probability from 0.5: 0 undecided, 0.5 certain."""
    sign_margin: float
    """How far the positive side of the map is from half of the image (Eqn 5): 0 a coin toss."""
    crf_agreement: float
    """Intersection over union of the foreground before and after refinement."""
    num_components: int
    """8-connected foreground regions."""
    inverted: bool
    """Eqn 5 turned the map around."""


def border_contact(mask_HW: Bool) -> float:
    """Share of the outermost pixels that are foreground."""
    outer_HW = np.ones_like(mask_HW)
    outer_HW[1:-1, 1:-1] = False
    return float(mask_HW[outer_HW].mean())


def agreement(a_HW: Bool, b_HW: Bool) -> float:
    """Intersection over union; 1 when both are empty."""
    union = np.count_nonzero(a_HW | b_HW)
    return float(np.count_nonzero(a_HW & b_HW) / union) if union else 1.0


def num_components(mask_HW: Bool) -> int:
    """8-connected foreground regions."""
    count, _ = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
    return int(count) - 1
