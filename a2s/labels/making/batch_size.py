"""How many images fit into one forward pass on a GPU."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from a2s.errors import A2SError
from a2s.labels.making.chunk import activate, load_network
from a2s.parallel.gpu_thread import device_thread

if TYPE_CHECKING:
    pass
from a2s.parallel.gpu_memory import FULL, MEMORY_SHARE, free_bytes

LARGEST_BATCH = 256
"""More gives nothing: a GPU is full long before, and the results of a batch travel together."""


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
