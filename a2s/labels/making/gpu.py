"""The GPU half of labelling: prefetch, activation maps, and the dense CRF on request.

Several threads call it, each with its own chunk: while one uses the GPU, the others read and
decode. Shapes: B images, S the network's input size, h w a map's, S T the CRF's.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from a2s.data.arrays import F32, U8
from a2s.data.chunks import Chunk
from a2s.errors import DataError
from a2s.labels.crf.torch_backend import inference
from a2s.labels.making.chunk import Activated, Packed, damaged
from a2s.labels.quality import thumbnail
from a2s.labels.refine import Recipe, probability, shrink_for_crf
from a2s.models.inference import InferenceModel, on_gpu_or_cpu
from a2s.models.saved import NetworkInput, SavedNetwork
from a2s.parallel.gpu_memory import pinned, retry_on_oom
from a2s.parallel.gpu_thread import PREFETCH_THREADS
from a2s.parallel.timing import StageTimer
from a2s.storage.failures import Failure

CRF_CHUNKS = 3
"""Chunks that may wait for the CRF; their images are in page-locked memory, never freed."""


@dataclass
class GpuWorker:
    """A network on a GPU, its input size, and threads that read and decode."""

    model: InferenceModel
    network_input: NetworkInput
    recipe: Recipe | None
    """With it the dense CRF runs on the device as well."""
    prefetch: ThreadPoolExecutor
    refining: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(CRF_CHUNKS)
    )


def load_activation(
    saved: SavedNetwork, network_input: NetworkInput, batch_size: int, recipe: Recipe | None
) -> Callable[[Chunk], Activated]:
    """Load the model on the GPU if there is one; return a function that activates a chunk.

    With a recipe the dense CRF runs there as well.
    """
    model = on_gpu_or_cpu(
        saved,
        batch_size=batch_size,
        batch_shapes="any" if network_input.side is None else "few",
    )
    prefetch = ThreadPoolExecutor(PREFETCH_THREADS, "a2s-prefetch")
    return functools.partial(activate_chunk, GpuWorker(model, network_input, recipe, prefetch))


def activate_chunk(worker: GpuWorker, chunk: Chunk) -> Activated:
    """Make the activation maps (Eqn 3) of the images of a chunk."""
    # Seconds of the prefetch threads, not of waiting for them: they also work for other chunks.
    seconds = {"decode": 0.0}
    timer, recipe = StageTimer(seconds), worker.recipe

    def load(row: int) -> tuple[U8, U8, tuple[int, int]] | Failure:
        with timer.stage("decode"):
            try:
                image_HW3 = chunk.decode(row)
            except DataError as error:
                return damaged(chunk, row, error)
            resized_SS3 = worker.network_input.resize(image_HW3)
            reduced = shrink_for_crf(image_HW3, max_side=recipe.max_side) if recipe else resized_SS3
            return resized_SS3, reduced, (image_HW3.shape[0], image_HW3.shape[1])

    loaded = list(worker.prefetch.map(load, range(len(chunk.part))))
    failures = {row: item for row, item in enumerate(loaded) if isinstance(item, dict)}
    good = {row: item for row, item in enumerate(loaded) if not isinstance(item, dict)}
    sizes = {row: size for row, (_, _, size) in good.items()}
    done = Activated({}, {}, {}, sizes, failures, seconds)
    if not good:
        return done
    by_size = of_one_size({row: item[0] for row, item in good.items()})
    stacks = [np.stack([good[row][0] for row in rows]) for rows in by_size]
    reduced = {row: item[1] for row, item in good.items()}
    del loaded, good
    timer.begin_lap()

    def thetas() -> list[F32]:
        timer.lap("queue")
        found = [worker.model.maps(image_BSS3) for image_BSS3 in stacks]
        timer.lap("network")
        return found

    for rows, theta_Bhw in zip(by_size, worker.model.call(thetas), strict=True):
        done.thetas.update(zip(rows, theta_Bhw, strict=True))
    stacks.clear()
    if recipe is not None:
        with worker.refining:
            _refine_chunk(worker, reduced, recipe, done, timer)
    return done


def _refine_chunk(
    worker: GpuWorker, reduced: dict[int, U8], recipe: Recipe, done: Activated, timer: StageTimer
) -> None:
    """Run the dense CRF for a chunk; the CPU computes the energies, as without a GPU."""

    def logit(row: int) -> F32:
        with timer.stage("decode"):
            height, width = reduced[row].shape[:2]
            p_ST = probability(done.thetas[row], height=height, width=width, tie=recipe.sign_tie)
            background_N, foreground_N = recipe.energy(p_ST, recipe.params)
            logit_ST: F32 = np.subtract(background_N, foreground_N).reshape(height, width)
            done.thumbnails[row] = thumbnail(reduced[row])
            return logit_ST

    # Images of one size together share one lattice of positions.
    order = sorted(reduced, key=lambda row: reduced[row].shape)
    device = worker.model.device
    images = pinned([reduced[row] for row in order], device)
    logits = pinned(list(worker.prefetch.map(logit, order)), device)
    timer.begin_lap()

    def masks() -> list[Packed]:
        timer.lap("queue")
        found = crf_masks(images, logits, recipe, device)
        timer.lap("device refine")
        return found

    done.masks.update(zip(order, worker.model.call(masks), strict=True))


def of_one_size(image_by_row: Mapping[int, U8]) -> list[list[int]]:
    """Group rows by image size: one forward pass takes images of one size."""
    rows_by_size: dict[tuple[int, ...], list[int]] = {}
    for row, image_HW3 in image_by_row.items():
        rows_by_size.setdefault(image_HW3.shape, []).append(row)
    return list(rows_by_size.values())


def crf_masks(
    images: list[torch.Tensor], logits: list[torch.Tensor], recipe: Recipe, device: torch.device
) -> list[Packed]:
    """Masks of the dense CRF, in batches that fit into memory; smaller ones after an out-of-memory.

    Images and logits are in page-locked memory (`pinned`).

    Shape: S T 3, S T of each -> S T of each

    Raises:
        A2SError: not even one image fits.
    """

    def masks(max_bytes: int) -> torch.Tensor:
        found = inference.crf_batch(
            [image.to(device, non_blocking=True) for image in images],
            [logit.to(device, non_blocking=True) for logit in logits],
            recipe.params,
            max_bytes=max_bytes,
        )
        return torch.cat([mask.flatten() for mask in found]).cpu()

    # A batch has at least one image, however little memory there is.
    least_bytes = inference.BYTES_PER_PIXEL * min(logit.numel() for logit in logits)
    flat = retry_on_oom(masks, device, least_bytes=least_bytes)
    parts = torch.split(flat, [logit.numel() for logit in logits])
    return [
        Packed.of(part.view(logit.shape).numpy()) for part, logit in zip(parts, logits, strict=True)
    ]
