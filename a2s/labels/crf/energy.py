"""Unary energies and parameters of the dense CRF. Pure, per image.

Shapes: probability_HW float32 in [0, 1]; energy_2N float32 with N = H * W.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from a2s.data.arrays import F32, Bool
from a2s.errors import ConfigError


@dataclass(frozen=True)
class CrfParams:
    """Kernel widths and weights; defaults from the authors' code, because the paper names none."""

    confidence: float = 0.7
    gaussian_sxy: float = 3.0
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 50.0
    bilateral_srgb: float = 5.0
    bilateral_compat: float = 10.0
    iterations: int = 10

    def __post_init__(self) -> None:
        """Check the ranges. Raises: ConfigError."""
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"CRF: {name} is {getattr(self, name)}; it must be above 0")
        for name in ("gaussian_compat", "bilateral_compat"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"CRF: {name} is {getattr(self, name)}; it must be 0 or above")
        if not 0.5 < self.confidence < 1:
            raise ConfigError(
                f"CRF: confidence is {self.confidence}; it must be between 0.5 and 1, exclusive"
            )
        if self.iterations < 0:
            raise ConfigError(f"CRF: iterations is {self.iterations}; it must be 0 or above")


Energy = Callable[[F32, CrfParams], F32]


def energy_of(crf_input: Literal["hard", "soft"]) -> Energy:
    """Return the function that computes the unary energy."""
    return {"hard": hard_energy, "soft": soft_energy}[crf_input]


def stretch(probability_HW: F32) -> F32:
    """Min-max scale to 0..1; a constant map becomes 0."""
    low, high = probability_HW.min(), probability_HW.max()
    if high <= low:
        return np.zeros_like(probability_HW)
    return np.asarray((probability_HW - low) / (high - low), dtype=np.float32)


def binarise(probability_HW: F32) -> Bool:
    """Foreground after min-max scaling: the label before refinement."""
    return stretch(probability_HW) > 0.5


def hard_energy(probability_HW: F32, params: CrfParams) -> F32:
    """Unary energy of the binarised map; each label has probability `params.confidence`.

    Shape: H W -> 2 N.
    """
    sure = np.float32(-np.log(params.confidence))
    unsure = np.float32(-np.log(1.0 - params.confidence))
    foreground_N = binarise(probability_HW).ravel()
    return np.stack([np.where(foreground_N, unsure, sure), np.where(foreground_N, sure, unsure)])


def soft_energy(probability_HW: F32, params: CrfParams) -> F32:
    """Unary energy of the probabilities, without binarising.

    Shape: H W -> 2 N. Reference: Eqn 6 as written.
    """
    del params  # the probabilities carry their own confidence
    p_N = probability_HW.ravel()
    return -np.log(np.clip(np.stack([1 - p_N, p_N]), 1e-5, 1.0)).astype(np.float32)
