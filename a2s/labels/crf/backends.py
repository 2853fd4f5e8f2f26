"""Dense conditional random field of two labels (Krähenbühl and Koltun 2011): who computes it.

All backends compute the same mean field on the same permutohedral lattice, from the same energies.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Literal

from a2s.errors import ConfigError
from a2s.labels.crf.energy import F32, U8, CrfParams, Mask

Backend = Literal["numba", "torch", "pydensecrf"]
Crf = Callable[[U8, F32, CrfParams], Mask]
"""(image_HW3, energy_2N, params) -> mask_HW, one image at a time."""
Marginal = Callable[[U8, F32, CrfParams], F32]
"""The same, giving the probability of foreground instead of the more probable label."""


def crf_of(backend: Backend) -> Crf:
    """Choose who computes the CRF; a backend is imported when it is chosen.

    Raises:
        ConfigError: its library is not installed.
    """
    crf: Crf = _module(backend).crf
    return crf


def marginal_of(backend: Backend) -> Marginal:
    """Choose who computes the CRF's probabilities.

    Raises:
        ConfigError: as `crf_of`.
    """
    marginal: Marginal = _module(backend).foreground_probability
    return marginal


def _module(backend: Backend) -> ModuleType:
    try:
        return importlib.import_module(f"a2s.labels.crf.{backend}_backend")
    except ImportError as error:
        package = "a2s[pydensecrf]" if backend == "pydensecrf" else backend
        raise ConfigError(
            f"refine.backend {backend}: cannot be imported ({error}); "
            f"pip install '{package}', or take another backend"
        ) from error
