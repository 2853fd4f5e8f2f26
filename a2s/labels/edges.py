"""Sharp edges for a saliency map: the dense CRF moves its boundary to that of the colours."""

from __future__ import annotations

import cv2
import numpy as np

from a2s.data.arrays import F32, U8
from a2s.labels.crf.backends import Marginal
from a2s.labels.crf.energy import CrfParams, soft_energy
from a2s.labels.refine import shrink_for_crf

MAX_SIDE = 640
"""Longest side in pixels at which the CRF runs: its widths are in pixels."""


def refine_map(image_HW3: U8, map_HW: U8, marginal: Marginal) -> U8:
    """Probability of foreground after mean-field inference that starts from the map.

    Shape: H W 3, H W -> H W. Range: 0..255. Reference: Eqn 6, without binarising and median.
    """
    height, width = map_HW.shape
    small_ST3 = shrink_for_crf(image_HW3, max_side=MAX_SIDE)
    s, t = small_ST3.shape[:2]
    map_ST = cv2.resize(map_HW, (t, s), interpolation=cv2.INTER_AREA)
    energy_2N = soft_energy(np.asarray(map_ST, np.float32) / np.float32(255), CrfParams())
    p_ST = marginal(small_ST3, energy_2N, CrfParams())
    p_HW: F32 = p_ST
    if (s, t) != (height, width):
        p_HW = np.asarray(cv2.resize(p_ST, (width, height), interpolation=cv2.INTER_CUBIC))
    levels_HW: U8 = np.rint(np.clip(p_HW, 0, 1) * 255).astype(np.uint8)
    return levels_HW
