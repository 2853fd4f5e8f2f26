"""Self-test of a CRF backend on this machine."""

from __future__ import annotations

import numpy as np

from a2s.labels.crf.backends import Backend, crf_of
from a2s.labels.crf.energy import CrfParams, hard_energy


def mask_of(backend: Backend) -> bytes | None:
    """Run a backend on a drawn square; return its mask, None if the mask is wrong.

    Raises: any exception of a backend that does not work.
    """
    image = np.full((24, 24, 3), 40, np.uint8)
    image[8:16, 8:16] = 220
    probability = np.full((24, 24), 0.1, np.float32)
    probability[7:15, 8:16] = 0.9
    params = CrfParams()
    mask = crf_of(backend)(image, hard_energy(probability, params), params)
    return mask.tobytes() if mask[10:14, 10:14].all() and not mask[:4].any() else None
