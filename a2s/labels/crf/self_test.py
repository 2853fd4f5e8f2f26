"""Whether a backend of the dense CRF works where this runs."""

from __future__ import annotations

import numpy as np

from a2s.labels.crf.backends import Backend, crf_of
from a2s.labels.crf.energy import CrfParams, hard_energy


def mask_of(backend: Backend) -> bytes | None:
    """What a backend makes of a roughly known square; None when it is no square.

    Raises: whatever the backend does where it does not work.
    """
    image = np.full((24, 24, 3), 40, np.uint8)
    image[8:16, 8:16] = 220
    rough = np.full((24, 24), 0.1, np.float32)
    rough[7:15, 8:16] = 0.9
    params = CrfParams()
    mask = crf_of(backend)(image, hard_energy(rough, params), params)
    return mask.tobytes() if mask[10:14, 10:14].all() and not mask[:4].any() else None
