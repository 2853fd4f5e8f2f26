"""Permutohedral lattice (Adams, Baek and Davis 2010) in numba, for the dense CRF of two labels.

Pixels are kept in tiles of `TILE` slots, so that neighbours in the image are neighbours in memory.
Per tile there are d + 1 rows of vertex numbers and of weights, one row per vertex of the simplex:
both arrays are flat, slot `s` of row `r` of tile `t` at `(t * (d + 1) + r) * TILE + s`. Vertices
are numbered as they are met, tile by tile; the number after the last stands for "no vertex" and its
value is always 0.

Vertex numbers, keys and indices are unsigned: numba wraps negative ones, which costs a third of the
time. numba's cache on disk looks at a function's own file only, so no compiled function calls one
of another file.
"""

from a2s.labels.crf.numba_backend.inference import crf, foreground_probability

__all__ = ["IS_BATCHED", "crf", "foreground_probability"]

IS_BATCHED = False
