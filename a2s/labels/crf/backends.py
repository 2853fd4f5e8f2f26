"""Backends of the dense conditional random field with two labels (Krähenbühl and Koltun 2011).

All backends compute the same mean field on the same permutohedral lattice, from the same energies.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Literal, get_args

from a2s.data.arrays import F32, U8, Bool
from a2s.errors import ConfigError
from a2s.labels.crf.energy import CrfParams

Backend = Literal["numba", "torch", "pydensecrf"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
Crf = Callable[[U8, F32, CrfParams], Bool]
"""(image_HW3, energy_2N, params) -> mask_HW, one image at a time."""
Marginal = Callable[[U8, F32, CrfParams], F32]
"""(image_HW3, energy_2N, params) -> probability of foreground_HW."""


def choose_backend(wanted: str, *, on_gpu: bool) -> Backend:
    """Resolve `auto` to the backend that suits the device of the networks.

    Raises:
        ConfigError: there is no such backend.
    """
    if wanted == "auto":
        return "torch" if on_gpu else "numba"
    for backend in BACKENDS:
        if wanted == backend:
            return backend
    raise ConfigError(f"refine.backend {wanted}: known are {', '.join(BACKENDS)}")


def is_batched(backend: Backend) -> bool:
    """Whether a backend processes batches of images, on a GPU if there is one.

    Raises:
        ConfigError: as `crf_of`.
    """
    batched: bool = _module(backend).IS_BATCHED
    return batched


def crf_of(backend: Backend) -> Crf:
    """Import a backend and return its CRF function.

    Raises:
        ConfigError: its library is not installed.
    """
    crf: Crf = _module(backend).crf
    return crf


def marginal_of(backend: Backend) -> Marginal:
    """Import a backend and return its function for foreground probabilities.

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
