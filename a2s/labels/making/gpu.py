"""The half of labelling that runs where the GPU is: read ahead, network, on request the CRF.

Several threads call it, each with a chunk of its own: while one has the device, the others read and
decode. Shapes: B images, S the network's input size, h w a map's, S T the CRF's.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from a2s.errors import A2SError, DataError
from a2s.labels.crf.energy import F32, U8
from a2s.labels.making.chunk import (
    Activated,
    Chunk,
    Failure,
    Packed,
    activate,
    decode,
    failure,
    load_network,
    squash,
)
from a2s.labels.refine import Recipe, probability, reduce
from a2s.parallel.gpu_memory import FULL, retry_on_oom
from a2s.parallel.gpu_thread import DeviceThread, device_thread, pad_batch

if TYPE_CHECKING:
    import torch

    from a2s.models.activation_net import ActivationNet

HELPERS = 8
"""Threads per GPU that read and decode."""
CRF_CHUNKS = 3
"""Chunks whose images lie ready for the CRF: that memory is page-locked, and never given back."""


@dataclass
class _Device:
    """A network on a device, its thread, the batch that fits, and who helps on the CPU."""

    network: ActivationNet
    device: torch.device
    batch_size: int
    run: DeviceThread
    helpers: ThreadPoolExecutor
    one_size: bool
    """Whether the network sees all images at one size."""
    refining: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(CRF_CHUNKS)
    )


def load_activation(
    model: Path, image_size: int | None, batch_size: int, recipe: Recipe | None
) -> Callable[[Chunk], Activated]:
    """Load the model once, on the GPU if there is one; what comes back activates chunks.

    The network sees images at `image_size`, or at their own. With a recipe the dense CRF runs there
    as well.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # On a CPU one at a time: an image has the same label whatever shares its chunk.
    batch_size = 1 if device.type == "cpu" else batch_size
    network = load_network(model, device.type)
    helpers = ThreadPoolExecutor(HELPERS, "a2s-helper")
    one_size = image_size is not None
    place = _Device(network, device, batch_size, device_thread(), helpers, one_size)
    return functools.partial(activate_chunk, place, squash(model, image_size), recipe)


def activate_chunk(
    place: _Device, squashed: Callable[[U8], U8], recipe: Recipe | None, chunk: Chunk
) -> Activated:
    """Make the activation maps (Eqn 3) of the images of a chunk, `squashed` for the network."""
    helped = list[float]()

    def load(row: int) -> tuple[U8, U8, tuple[int, int]] | Failure:
        with _timed(helped):
            try:
                image_HW3 = decode(chunk.part, row)
            except DataError as error:
                return failure(chunk.part, row, error)
            squashed_SS3 = squashed(image_HW3)
            reduced = reduce(image_HW3, max_side=recipe.max_side) if recipe else squashed_SS3
            return squashed_SS3, reduced, (image_HW3.shape[0], image_HW3.shape[1])

    loaded = list(place.helpers.map(load, range(len(chunk.part))))
    failures = {row: item for row, item in enumerate(loaded) if isinstance(item, dict)}
    good = {row: item for row, item in enumerate(loaded) if not isinstance(item, dict)}
    done = Activated({}, {}, {row: size for row, (_, _, size) in good.items()}, failures)
    # What the helpers worked, not how long this thread waited for them: they serve others too.
    done.seconds["decode"] = sum(helped)
    if not good:
        return done
    by_size = of_one_size({row: item[0] for row, item in good.items()})
    stacks = [np.stack([good[row][0] for row in rows]) for rows in by_size]
    reduced = {row: item[1] for row, item in good.items()}
    del loaded, good
    clock = _Clock()

    def thetas() -> list[npt.NDArray[np.float32]]:
        clock.lap(done.seconds, "queue")
        found = [in_batches(place, image_BSS3) for image_BSS3 in stacks]
        clock.lap(done.seconds, "network")
        return found

    for rows, theta_Bhw in zip(by_size, place.run(thetas), strict=True):
        done.thetas.update(zip(rows, theta_Bhw, strict=True))
    stacks.clear()
    if recipe is not None:
        with place.refining:
            _refine_chunk(place, reduced, recipe, done, helped)
        done.seconds["decode"] = sum(helped)
    return done


def _refine_chunk(
    place: _Device, reduced: dict[int, U8], recipe: Recipe, done: Activated, helped: list[float]
) -> None:
    """Add the masks of the dense CRF to a chunk that has maps, from the very numbers of a CPU."""

    def logit(row: int) -> F32:
        with _timed(helped):
            height, width = reduced[row].shape[:2]
            p_ST = probability(done.thetas[row], height=height, width=width, tie=recipe.sign_tie)
            background_N, foreground_N = recipe.energy(p_ST, recipe.params)
            logit_ST: F32 = np.subtract(background_N, foreground_N).reshape(height, width)
            return logit_ST

    # Images of one size together: the lattice of their positions is made once.
    order = sorted(reduced, key=lambda row: reduced[row].shape)
    images = _pinned([reduced[row] for row in order], place.device)
    logits = _pinned(list(place.helpers.map(logit, order)), place.device)
    clock = _Clock()

    def masks() -> list[Packed]:
        clock.lap(done.seconds, "queue")
        found = _refined(place, images, logits, recipe)
        clock.lap(done.seconds, "device refine")
        return found

    done.masks.update(zip(order, place.run(masks), strict=True))


def of_one_size(image_by_row: Mapping[int, U8]) -> list[list[int]]:
    """Rows of images that a forward pass may take together, in their order within each size."""
    rows_by_size: dict[tuple[int, ...], list[int]] = {}
    for row, image_HW3 in image_by_row.items():
        rows_by_size.setdefault(image_HW3.shape, []).append(row)
    return list(rows_by_size.values())


def _pinned(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> list[torch.Tensor]:
    """Copy arrays of one dtype to a piece of memory that a GPU copies from, all at once."""
    import torch

    flat = torch.empty(
        sum(array.size for array in arrays),
        dtype=torch.from_numpy(arrays[0]).dtype,
        pin_memory=device.type == "cuda",
    )
    parts = torch.split(flat, [array.size for array in arrays])
    for part, array in zip(parts, arrays, strict=True):
        part.numpy()[:] = array.ravel()
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _refined(
    place: _Device, images: list[torch.Tensor], logits: list[torch.Tensor], recipe: Recipe
) -> list[Packed]:
    """Masks of the dense CRF, in parts that fit; when memory runs out, in smaller ones.

    Images and logits are those of `_pinned`. Raises: A2SError when not even one image fits.
    """
    import torch

    from a2s.labels.crf.torch_backend.inference import BYTES_PER_PIXEL, crf_batch

    def masks(max_bytes: int) -> torch.Tensor:
        found = crf_batch(
            [image.to(place.device, non_blocking=True) for image in images],
            [logit.to(place.device, non_blocking=True) for logit in logits],
            recipe.params,
            max_bytes=max_bytes,
        )
        return torch.cat([mask.flatten() for mask in found]).cpu()

    # A part has an image at least, however little it may take.
    least_bytes = BYTES_PER_PIXEL * min(logit.numel() for logit in logits)
    flat = retry_on_oom(masks, place.device, least_bytes=least_bytes)
    parts = torch.split(flat, [logit.numel() for logit in logits])
    return [
        Packed.of(part.view(logit.shape).numpy()) for part, logit in zip(parts, logits, strict=True)
    ]


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds.append(time.perf_counter() - started)


class _Clock:
    def __init__(self) -> None:
        self.last = time.perf_counter()

    def lap(self, seconds: dict[str, float], stage: str) -> None:
        now = time.perf_counter()
        seconds[stage] = seconds.get(stage, 0.0) + now - self.last
        self.last = now


def in_batches(place: _Device, image_BSS3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Activate in batches that fit; when memory runs out (others use it too), in smaller ones.

    Raises: A2SError when not even one image fits.
    """
    import torch

    maps: list[npt.NDArray[np.float32]] = []
    first = 0
    while first < len(image_BSS3):
        try:
            maps.append(_forward(place, image_BSS3[first : first + place.batch_size]))
        except torch.OutOfMemoryError:
            if place.batch_size == 1:
                raise A2SError(FULL) from None
            place.batch_size //= 2
            torch.cuda.empty_cache()
            continue
        first += len(maps[-1])
    return np.concatenate(maps)


def _forward(place: _Device, image_BSS3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Activate so that a GPU needs no time for plans: cuDNN makes them for each shape it sees."""
    import torch

    if not place.one_size:
        # Shapes without end, so kernels that need no plan.
        with torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
            return activate(place.network, image_BSS3)
    filled_BSS3 = pad_batch(image_BSS3, largest=place.batch_size)
    return activate(place.network, filled_BSS3)[: len(image_BSS3)]
