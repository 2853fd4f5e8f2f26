"""Dense CRF with two labels: mean-field inference with numba, torch or pydensecrf. Pure."""

from a2s.labels.crf.backends import Marginal, crf_of, marginal_of
from a2s.labels.crf.energy import CrfParams, energy_of, soft_energy

__all__ = ["CrfParams", "Marginal", "crf_of", "energy_of", "marginal_of", "soft_energy"]
