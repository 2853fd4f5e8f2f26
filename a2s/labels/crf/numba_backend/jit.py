"""How functions are compiled: once per machine, kept on disk, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Function = Callable[..., Any]

# No promise about NaN or infinity is made to the compiler; only the order of sums is left to it.
_REORDER = {"contract", "reassoc", "nsz", "arcp"}


def _compiled(function: Function, **options: Any) -> Function:
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        cached: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # No folder can be written, neither the package's nor the user's: compile in memory.
        in_memory: Function = numba.njit(**options)(function)
        return in_memory
    return cached


def exact(function: Function) -> Function:
    """Compile with every rounding as written: which simplex a pixel lies in depends on it."""
    return _compiled(function)


def fast(function: Function) -> Function:
    """Compile with sums in any order and fused multiply-adds."""
    return _compiled(function, fastmath=_REORDER)
