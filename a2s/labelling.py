"""What a worker does with one chunk of a shard on the way to pseudo labels (Eqn 5, 6).

The images stay where they are: whoever needs them reads them from the tar, and only activation maps
and finished labels travel. Shapes: B images, S the network's input size, h w a map's size.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from a2s import checkpoint
from a2s.data import images
from a2s.data.tars import Index
from a2s.errors import DataError
from a2s.refine import Recipe, refine
from a2s.refine.quality import Quality

Failure = dict[str, str]


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples of one shard."""

    shard: int
    number: int
    part: Index

    def __str__(self) -> str:
        return f"{self.part.shards[0].name}, chunk {self.number} from key {self.part.key(0)}"


@dataclass(frozen=True)
class Activated:
    """Activation maps by row of the chunk, or why an image has none, and the time it took."""

    thetas: dict[int, npt.NDArray[np.float32]]
    failures: dict[int, Failure]
    seconds: float


@dataclass(frozen=True)
class Label:
    """A finished label: PNG bytes at the image's own size, and its row of the quality table."""

    png: bytes
    width: int
    height: int
    quality: Quality


@dataclass(frozen=True)
class Labelled:
    """A finished chunk: labels by key, failures as lines of `failures.jsonl`, seconds."""

    shard: int
    number: int
    labels: dict[str, Label]
    failures: list[Failure]
    activation_sec: float
    refine_sec: float


def chunks(index: Index, *, todo: list[int], size: int) -> Iterator[Chunk]:
    """Cut shards into chunks, lazily and in order."""
    for shard in todo:
        rows = index.shard_rows(shard)
        for number, start in enumerate(range(rows.start, rows.stop, size)):
            yield Chunk(shard, number, index.part(range(start, min(start + size, rows.stop))))


def load_activation(model: Path, image_size: int) -> Callable[[Chunk], Activated]:
    """Load the model once; what comes back maps chunks to activation maps."""
    import torch

    network, _ = checkpoint.load_model(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return functools.partial(activate_chunk, network.to(device).eval(), image_size)


def activate_chunk(network: Any, image_size: int, chunk: Chunk) -> Activated:
    """Make the activation maps (Eqn 3) of the images of a chunk, squashed to the network's size."""
    import torch

    from a2s.comparison import micro_batches
    from a2s.data.transforms import normalise

    started = time.monotonic()
    squashed: dict[int, npt.NDArray[np.uint8]] = {}
    failures: dict[int, Failure] = {}
    for row in range(len(chunk.part)):
        try:
            image_HW3 = _decode(chunk.part, row)
        except DataError as error:
            failures[row] = _failure(chunk.part, row, error)
            continue
        squashed[row] = images.resize_rgb(image_HW3, height=image_size, width=image_size)
    thetas: dict[int, npt.NDArray[np.float32]] = {}
    if squashed:
        device = next(network.parameters()).device
        # One thread whatever the number of workers: the order of sums, so the labels, depend on it.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                image_BSS3 = torch.from_numpy(np.stack(list(squashed.values())))
                image_B3SS = normalise(image_BSS3.permute(0, 3, 1, 2).to(device))
                # On a CPU one at a time: an image has the same label whatever shares its chunk.
                parts = micro_batches(len(image_B3SS), device=device)
                theta_B1hw = torch.cat([network(image_B3SS[part]).theta for part in parts])
        finally:
            torch.set_num_threads(threads)
        thetas = dict(zip(squashed, theta_B1hw[:, 0].float().cpu().numpy(), strict=True))
    return Activated(thetas, failures, time.monotonic() - started)


def refine_chunk(chunk: Chunk, activated: Activated, recipe: Recipe) -> Labelled:
    """Refine the maps of a chunk at the images' own size; the images are read again here."""
    started = time.monotonic()
    labels: dict[str, Label] = {}
    failures = dict(activated.failures)
    for row, theta_hw in activated.thetas.items():
        try:
            image_HW3 = _decode(chunk.part, row)
        except DataError as error:
            failures[row] = _failure(chunk.part, row, error)
            continue
        refined = refine(image_HW3, theta_hw, recipe=recipe)
        height, width = refined.mask_HW.shape
        png = images.encode_png(refined.mask_HW)
        labels[chunk.part.key(row)] = Label(png, width, height, refined.quality)
    return Labelled(
        chunk.shard,
        chunk.number,
        labels,
        [failures[row] for row in sorted(failures)],
        activation_sec=activated.seconds,
        refine_sec=time.monotonic() - started,
    )


def _decode(part: Index, row: int) -> npt.NDArray[np.uint8]:
    return images.decode(part.read(row), max_pixels=max(images.MAX_PIXELS, part.pixels(row)))


def _failure(part: Index, row: int, error: DataError) -> Failure:
    return {
        "key": part.key(row),
        "path": str(part.shards[0].path),
        "reason": error.reason if isinstance(error, images.BadImage) else "damaged",
        "detail": str(error),
    }
