"""From activation map to pseudo label: sign, dense CRF, median filter (Eqn 6). Pure, per image."""

from a2s.refine.crf import crf_of
from a2s.refine.energy import CrfParams, energy_of
from a2s.refine.label import Recipe, Refined, finish, probability, reduce, refine

__all__ = [
    "CrfParams",
    "Recipe",
    "Refined",
    "crf_of",
    "energy_of",
    "finish",
    "probability",
    "reduce",
    "refine",
]
