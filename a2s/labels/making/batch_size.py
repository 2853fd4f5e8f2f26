"""Largest batch of a forward pass that fits into a GPU's memory."""

from __future__ import annotations

import functools

import torch

from a2s.errors import A2SError
from a2s.models.inference import InferenceModel, on_gpu_or_cpu
from a2s.models.saved import SavedNetwork
from a2s.parallel.gpu_memory import FULL, MEMORY_SHARE, free_bytes

LARGEST_BATCH = 256
"""Larger batches are not faster, and the results of a batch are sent together."""


def fitting_batch(saved: SavedNetwork, num_pixels: int) -> int:
    """Largest batch of images of `num_pixels` on this process's GPU; 1 on a CPU.

    It is measured with images of the training size.

    Raises:
        A2SError: not even one image fits.
    """
    if not torch.cuda.is_available():
        return 1
    model, side = on_gpu_or_cpu(saved, batch_size=1), saved.image_size
    peaks: dict[int, int] = {}
    for batch_size in (1, 2, 8):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        image_BSS3 = torch.zeros(batch_size, side, side, 3, dtype=torch.uint8)
        try:
            model.call(functools.partial(_forward, model, image_BSS3))
        except torch.OutOfMemoryError:
            if not peaks:
                # Not 1: a resumed job would keep that after the memory is free again.
                raise A2SError(FULL) from None
            return 1
        peaks[batch_size] = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    bytes_per_pixel = (peaks[8] - peaks[2]) / 6 / side**2
    return batch_for(free_bytes(torch.device("cuda")), bytes_per_image=bytes_per_pixel * num_pixels)


def _forward(model: InferenceModel, image_BSS3: torch.Tensor) -> None:
    model.forward(image_BSS3).cpu()


def batch_for(num_bytes: float, *, bytes_per_image: float) -> int:
    """Largest power of two of images that fits. Range: 1..LARGEST_BATCH."""
    fits = int(MEMORY_SHARE * num_bytes / max(bytes_per_image, 1.0))
    return min(LARGEST_BATCH, 1 << max(0, fits.bit_length() - 1))
