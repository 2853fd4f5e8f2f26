"""The half of labelling that runs where the GPU is: read ahead, network, on request the CRF.

Several threads call it, each with a chunk of its own: while one has the device, the others read and
decode. Shapes: B images, S the network's input size, h w a map's size.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from a2s.data import images
from a2s.errors import DataError
from a2s.labelling import Activated, Chunk, Failure, Theta, activate, decode, failure, load_network

if TYPE_CHECKING:
    import torch

    from a2s.models.activation import ActivationNet

DECODERS = 8
"""Threads per GPU that read and decode."""
LARGEST_BATCH = 256
"""More gives nothing: a GPU is full long before, and the results of a batch travel together."""
MEMORY_SHARE = 0.8


@dataclass
class _Device:
    """A network on a device, its lock, and the batch that fits."""

    network: ActivationNet
    device: torch.device
    batch_size: int
    lock: threading.Lock


def load_activation(model: Path, image_size: int, batch_size: int) -> Callable[[Chunk], Activated]:
    """Load the model once, on the GPU if there is one; what comes back activates chunks."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # On a CPU one at a time: an image has the same label whatever shares its chunk.
    batch_size = 1 if device.type == "cpu" else batch_size
    network = load_network(model).to(device)
    place = _Device(network, device, batch_size, threading.Lock())
    decoders = ThreadPoolExecutor(DECODERS, "decode")
    return functools.partial(activate_chunk, place, decoders, image_size)


def activate_chunk(
    place: _Device, decoders: ThreadPoolExecutor, image_size: int, chunk: Chunk
) -> Activated:
    """Make the activation maps (Eqn 3) of the images of a chunk, squashed to the network's size."""

    def load(row: int) -> npt.NDArray[np.uint8] | Failure:
        try:
            image_HW3 = decode(chunk.part, row)
        except DataError as error:
            return failure(chunk.part, row, error)
        return images.resize_rgb(image_HW3, height=image_size, width=image_size)

    started = time.perf_counter()
    loaded = list(decoders.map(load, range(len(chunk.part))))
    failures = {row: item for row, item in enumerate(loaded) if isinstance(item, dict)}
    rows = [row for row in range(len(loaded)) if row not in failures]
    decoded = time.perf_counter()
    thetas: dict[int, Theta] = {}
    with place.lock:
        entered = time.perf_counter()
        if rows:
            image_BSS3 = np.stack([item for item in loaded if not isinstance(item, dict)])
            theta_Bhw = in_batches(place, image_BSS3)
            thetas = dict(zip(rows, theta_Bhw, strict=True))
        left = time.perf_counter()
    seconds = {"decode": decoded - started, "queue": entered - decoded, "network": left - entered}
    return Activated(thetas, failures, seconds)


def in_batches(place: _Device, image_BSS3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Activate in batches that fit; when memory runs out (others use it too), in smaller ones.

    Raises: OutOfMemoryError when not even one image fits.
    """
    import torch

    maps: list[npt.NDArray[np.float32]] = []
    first = 0
    while first < len(image_BSS3):
        try:
            maps.append(activate(place.network, image_BSS3[first : first + place.batch_size]))
        except torch.OutOfMemoryError:
            if place.batch_size == 1:
                raise
            place.batch_size //= 2
            torch.cuda.empty_cache()
            continue
        first += len(maps[-1])
    return np.concatenate(maps)


def fitting_batch(model: Path, image_size: int) -> int:
    """How many images a forward pass may have on this process's GPU; 1 on a CPU."""
    import torch

    if not torch.cuda.is_available():
        return 1
    network = load_network(model).to("cuda")
    peaks = {}
    for batch_size in (1, 2, 8):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        activate(network, np.zeros((batch_size, image_size, image_size, 3), np.uint8))
        peaks[batch_size] = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    free_bytes, _ = torch.cuda.mem_get_info()
    return batch_for(free_bytes, bytes_per_image=(peaks[8] - peaks[2]) / 6)


def batch_for(free_bytes: float, *, bytes_per_image: float) -> int:
    """Largest power of two of images that fits. Range: 1..LARGEST_BATCH."""
    fits = int(MEMORY_SHARE * free_bytes / max(bytes_per_image, 1.0))
    return min(LARGEST_BATCH, 1 << max(0, fits.bit_length() - 1))
