"""Stand-in."""

from a2s.refine.crf_pydensecrf import crf

__all__ = ["crf"]
