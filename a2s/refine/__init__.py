"""From activation map to pseudo label: sign, dense CRF, median filter (Eqn 6). Pure, per image."""

from a2s.refine.crf import CrfParams, energy_of
from a2s.refine.label import Recipe, Refined, refine

__all__ = ["CrfParams", "Recipe", "Refined", "energy_of", "refine"]
