"""How much of a GPU's memory may be used, and how many images at once that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from a2s.errors import A2SError

if TYPE_CHECKING:
    import torch

R = TypeVar("R")
MEMORY_SHARE = 0.8
FULL = (
    "the GPU's memory does not hold one image; free it, or take the CPU (CUDA_VISIBLE_DEVICES=), "
    "for labels with another --out"
)


def free_bytes(device: torch.device) -> int:
    """Memory that is free, or that torch keeps for what comes; a fixed number for a CPU."""
    import torch

    if device.type != "cuda":
        return 2**30
    kept_bytes = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0] + kept_bytes)


def retry_on_oom(
    function: Callable[[int], R],
    device: torch.device,
    *,
    least_bytes: int,
    most_bytes: int | None = None,
) -> R:
    """Call with the bytes of memory that it may use; with half when they turn out not to be there.

    Raises: A2SError when not even `least_bytes` are.
    """
    import torch

    max_bytes = int(MEMORY_SHARE * free_bytes(device))
    max_bytes = max_bytes if most_bytes is None else min(max_bytes, most_bytes)
    while True:
        try:
            return function(max_bytes)
        except torch.OutOfMemoryError:
            if max_bytes < least_bytes:
                raise A2SError(FULL) from None
            max_bytes //= 2
            torch.cuda.empty_cache()
