"""numba backend: permutohedral lattice (Adams, Baek and Davis 2010) for the two-label dense CRF.

Pixels are stored in tiles of `TILE` slots, so neighbours in the image are neighbours in memory.
Each tile has d + 1 rows of vertex numbers and of weights, one row per vertex of the simplex. Both
arrays are flat: slot `s` of row `r` of tile `t` is at `(t * (d + 1) + r) * TILE + s`. Vertices are
numbered in order of occurrence, tile by tile. The number after the last one means "no vertex"; its
value is always 0.

Vertex numbers, keys and indices are unsigned, because numba's handling of negative indices costs a
third of the time. numba's disk cache only tracks a function's own file, so compiled functions do
not call functions of other files.
"""

from a2s.labels.crf.numba_backend.inference import crf, foreground_probability
from a2s.labels.crf.numba_backend.jit import cache_folder

__all__ = ["IS_BATCHED", "cache_folder", "crf", "foreground_probability"]

IS_BATCHED = False
