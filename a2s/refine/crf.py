"""Dense conditional random field of two labels (Krähenbühl and Koltun 2011): who computes it.

All backends compute the same mean field on the same permutohedral lattice, from the same energies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from a2s.refine.energy import F32, U8, CrfParams, Mask

Backend = Literal["pydensecrf", "numba"]
Crf = Callable[[U8, F32, CrfParams], Mask]
"""(image_HW3, energy_2N, params) -> mask_HW, one image at a time."""


def crf_of(backend: Backend) -> Crf:
    """Choose who computes the CRF; a backend is imported when it is chosen."""
    if backend == "numba":
        from a2s.refine import crf_numba

        return crf_numba.crf
    from a2s.refine import crf_pydensecrf

    return crf_pydensecrf.crf
