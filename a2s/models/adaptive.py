"""The boundary of a saliency map whose height is its own: a multiple of its mean. Pure."""

from __future__ import annotations

import numpy as np

from a2s.data.arrays import F32

FACTOR = 1.5
"""Foreground is what exceeds this many times the mean saliency of the image; chosen by trial.
Achanta et al. (2009) take 2."""
LOWEST, HIGHEST = 0.05, 0.6
"""Limits of the boundary: noise is no foreground, and an object may fill the image."""


def at_adaptive_boundary(saliency_HW: F32) -> F32:
    """Scale a saliency map so that 0.5 lies at its adaptive boundary.

    How high saliency maps rise differs between images; a fixed boundary loses parts of objects.

    Shape: H W -> H W. Range: 0..1
    """
    boundary = np.clip(FACTOR * saliency_HW.mean(), LOWEST, HIGHEST)
    return np.asarray(np.minimum(saliency_HW * np.float32(0.5 / boundary), 1), dtype=np.float32)
