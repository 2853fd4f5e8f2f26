"""From activation map to pseudo label: sign, dense CRF, median filter (Eqn 6). Pure, per image."""

from a2s.refine.crf import Marginal, crf_of, marginal_of
from a2s.refine.energy import CrfParams, energy_of, soft_energy
from a2s.refine.label import Recipe, Refined, finish, probability, reduce, refine

__all__ = [
    "CrfParams",
    "Marginal",
    "Recipe",
    "Refined",
    "crf_of",
    "energy_of",
    "finish",
    "marginal_of",
    "probability",
    "reduce",
    "refine",
    "soft_energy",
]
