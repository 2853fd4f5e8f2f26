"""Move what a brush painted to the edges of the photograph: dense CRF around the stroke. Pure.

Shapes: image_HW3 uint8 RGB; mask_HW and stroke_HW bool.
"""

from __future__ import annotations

import cv2
import numpy as np

from a2s.data.arrays import U8, Bool
from a2s.labels.crf.backends import Marginal
from a2s.labels.crf.energy import CrfParams, soft_energy
from a2s.labels.refine import shrink_for_crf

MAX_SIDE = 640
"""Longest side in pixels at which the CRF runs: its widths are in pixels."""
_REACH = 0.12
"""How far around a stroke pixels may change, as a share of the longer side of its box."""
_LEAST_REACH_PX = 8
_CONTEXT = 2
"""The CRF sees this many times as far as it may change."""
_PAINTED, _AS_IT_WAS, _UNKNOWN = 0.85, 0.98, 0.5
"""Probability of what the stroke says, of the mask far from it, and of pixels near it."""
_CORE = 0.6
"""Pixels deeper in the stroke than this share of the depth of its deepest fifth stay as drawn."""


def snap(
    image_HW3: U8, mask_HW: Bool, stroke_HW: Bool, marginal: Marginal, *, adds: bool = True
) -> Bool:
    """The mask after a stroke that adds foreground, or removes it; elsewhere it stays.

    Shape: H W 3, H W, H W -> H W.
    """
    if not stroke_HW.any():
        return mask_HW
    rows, columns = np.flatnonzero(stroke_HW.any(1)), np.flatnonzero(stroke_HW.any(0))
    box = max(int(np.ptp(rows)), int(np.ptp(columns))) + 1
    reach = max(_LEAST_REACH_PX, round(_REACH * box))
    margin = _CONTEXT * reach
    part = (
        slice(max(0, int(rows[0]) - margin), int(rows[-1]) + margin + 1),
        slice(max(0, int(columns[0]) - margin), int(columns[-1]) + margin + 1),
    )
    found_hw = _in_box(
        image_HW3[part], mask_HW[part], stroke_HW[part], marginal, adds=adds, reach=reach
    )
    result_HW = mask_HW.copy()
    result_HW[part] = found_hw
    return result_HW


def _in_box(
    image_hw3: U8, mask_hw: Bool, stroke_hw: Bool, marginal: Marginal, *, adds: bool, reach: int
) -> Bool:
    size = 2 * reach + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    near_hw = np.asarray(cv2.dilate(stroke_hw.astype(np.uint8), disc)) > 0
    p_hw = np.where(mask_hw, np.float32(_AS_IT_WAS), np.float32(1 - _AS_IT_WAS))
    # Near the stroke the colours decide, but a stroke takes nothing away that it does not touch.
    p_hw[near_hw & (mask_hw != adds)] = _UNKNOWN
    p_hw[stroke_hw] = _PAINTED if adds else 1 - _PAINTED
    core_hw = _core(stroke_hw)
    p_hw[core_hw] = 1.0 if adds else 0.0
    small_st3 = shrink_for_crf(np.ascontiguousarray(image_hw3), max_side=MAX_SIDE)
    s, t = small_st3.shape[:2]
    h, w = mask_hw.shape
    p_st = np.asarray(cv2.resize(p_hw, (t, s), interpolation=cv2.INTER_AREA), np.float32)
    energy_2N = soft_energy(p_st, CrfParams())
    found_st = marginal(small_st3, energy_2N, CrfParams())
    soft_hw = cv2.resize(np.asarray(found_st, np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    found_hw: Bool = np.asarray(soft_hw) > 0.5
    # The CRF alone would let a thin stroke vanish in its surroundings.
    added_hw, kept_hw = (near_hw & found_hw) | core_hw, (~near_hw | found_hw) & ~core_hw
    result_hw: Bool = mask_hw | added_hw if adds else mask_hw & kept_hw
    return result_hw


def _core(stroke_hw: Bool) -> Bool:
    """The middle of a stroke: where a person points at, not where the brush is too wide."""
    padded = np.pad(stroke_hw.astype(np.uint8), 1)
    depth_hw = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 3))[1:-1, 1:-1]
    core_hw: Bool = depth_hw > _CORE * np.percentile(depth_hw[stroke_hw], 80)
    return core_hw
