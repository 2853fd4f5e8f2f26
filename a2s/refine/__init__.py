"""From activation map to pseudo label: sign, dense CRF, median filter (Eqn 6). Pure, per image."""

from a2s.refine.crf import CrfParams
from a2s.refine.label import Refined, refine

__all__ = ["CrfParams", "Refined", "refine"]
