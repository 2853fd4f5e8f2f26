"""Compilation with numba: cached on disk, releases the GIL. The only importer of numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Function = Callable[..., Any]

# The compiler may reorder sums, but may not assume that there are no NaNs or infinities.
_REORDER = {"contract", "reassoc", "nsz", "arcp"}
_folders: set[str] = set()


def _compiled(function: Function, **options: Any) -> Function:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        cached: Any = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Neither the package's nor the user's cache folder is writable: compile in memory.
        in_memory: Function = numba.njit(**options)(function)
        return in_memory
    _folders.add(cached.stats.cache_path)
    on_disk: Function = cached
    return on_disk


def cache_folder() -> str | None:
    """Folder in which compiled functions are kept; None if they are compiled in every process."""
    return next(iter(_folders), None)


def exact(function: Function) -> Function:
    """Compile without fast math, because rounding decides the simplex that a pixel lies in."""
    return _compiled(function)


def fast(function: Function) -> Function:
    """Compile with reordered sums and fused multiply-adds."""
    return _compiled(function, fastmath=_REORDER)
