"""How much of a GPU's memory may be used, and how many images at once that is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from a2s.devicethread import device_thread
from a2s.errors import A2SError
from a2s.labelling import activate, load_network

if TYPE_CHECKING:
    import torch

R = TypeVar("R")
LARGEST_BATCH = 256
"""More gives nothing: a GPU is full long before, and the results of a batch travel together."""
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


def shrinking(
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


def fitting_batch(model: Path, image_size: int, num_pixels: int) -> int:
    """How many images of `num_pixels` a forward pass may have on this process's GPU; 1 on a CPU.

    Measured on squares of `image_size`, a side in pixels.

    Raises: A2SError when not even one image fits.
    """
    import torch

    if not torch.cuda.is_available():
        return 1
    network = load_network(model, "cuda")
    peaks: dict[int, int] = {}
    for batch_size in (1, 2, 8):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            images = np.zeros((batch_size, image_size, image_size, 3), np.uint8)
            device_thread()(functools.partial(activate, network, images))
        except torch.OutOfMemoryError:
            if not peaks:
                # Not 1: it would be remembered after the memory is free again.
                raise A2SError(FULL) from None
            return 1
        peaks[batch_size] = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    bytes_per_pixel = (peaks[8] - peaks[2]) / 6 / image_size**2
    return batch_for(free_bytes(torch.device("cuda")), bytes_per_image=bytes_per_pixel * num_pixels)


def batch_for(num_bytes: float, *, bytes_per_image: float) -> int:
    """Largest power of two of images that fits. Range: 1..LARGEST_BATCH."""
    fits = int(MEMORY_SHARE * num_bytes / max(bytes_per_image, 1.0))
    return min(LARGEST_BATCH, 1 << max(0, fits.bit_length() - 1))
