"""GPU memory: free bytes, retries after out-of-memory, page-locked host memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from a2s.errors import A2SError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

R = TypeVar("R")
MEMORY_SHARE = 0.8
FULL = (
    "the GPU's memory does not hold one image; free it, or take the CPU (CUDA_VISIBLE_DEVICES=), "
    "for labels with another --out"
)


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, including torch's cache; a fixed number for a CPU."""
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
    """Call `function` with the bytes that it may use; halve them after each out-of-memory error.

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


def pinned(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """Arrays of one dtype as tensors that a GPU can copy asynchronously.

    For a GPU they are copied into one block of page-locked memory; for a CPU they stay.
    """
    import torch

    if device.type != "cuda":
        return [torch.from_numpy(array) for array in arrays]
    flat = torch.empty(
        sum(array.size for array in arrays),
        dtype=torch.from_numpy(arrays[0]).dtype,
        pin_memory=True,
    )
    parts = torch.split(flat, [array.size for array in arrays])
    for part, array in zip(parts, arrays, strict=True):
        part.numpy()[:] = array.ravel()
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]
