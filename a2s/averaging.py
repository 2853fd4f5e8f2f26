"""What a worker does with one chunk of a shard on the way to the next generation (`a2s hma`).

It predicts the images with the committed model, updates their moving averages, makes the labels,
and writes both as row files: a store named `averages` beside `labels`, with the same generations.
So no pixels travel, and who resumes a pass finds what is done. The run's folder is shared by all
workers, as it is by all ranks. Shapes: B images, S the side of the network's input.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from a2s import checkpoint, hma
from a2s.data import images
from a2s.data.tars import Index
from a2s.errors import DataError, LabelError
from a2s.labelling import decode
from a2s.labelrows import RowFile, quantise, read_header, row_file_name, write_rows
from a2s.labelsource import LabelSource
from a2s.refine import marginal_of
from a2s.refine.crf import Backend
from a2s.refine.energy import F32, U8

if TYPE_CHECKING:
    from torch import nn

CHUNK = 32
"""Images per task, and so per row file: seconds of work on a core."""
GPU_BATCH = 8
"""Images per forward pass on a GPU; training needs more memory for as many."""
HELPERS = 8
"""Threads per GPU that read, decode, and where the CRF is the CPU's, compute it."""
STAGES = ("decode", "network", "crf", "write")

Each = Callable[[Callable[[int], Any], range], Iterator[Any]]


@dataclass(frozen=True)
class Turn:
    """What all chunks of a pass have in common.

    `before` reads the average that a row had until now, `averages` and `labels` are the stores into
    which `generation` is written.
    """

    model: Path
    side: int
    resize_filter: str
    backend: Backend
    before: LabelSource
    averages: Path
    labels: Path
    generation: int


@dataclass(frozen=True)
class Chunk:
    """Labelled rows of one shard, by their numbers in the whole index; `part` begins at the first.

    `number` counts the chunks of the shard.
    """

    shard: int
    number: int
    rows: tuple[int, ...]
    part: Index

    def __str__(self) -> str:
        return f"{self.part.shards[0].name}, chunk {self.number} from key {self.part.key(0)}"

    def file(self, generation: int) -> str:
        """Name of its row file, in both stores."""
        return row_file_name(generation=generation, step=self.shard, rank=0, number=self.number)


@dataclass
class Updated:
    """What became of a chunk."""

    num_images: int
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def lap(self, stage: str, since: float) -> float:
        """Count the seconds of a stage; return the time now."""
        now = time.perf_counter()
        self.seconds[stage] += now - since
        return now


def chunks(index: Index, keep_N: npt.NDArray[np.bool_], *, size: int = CHUNK) -> Iterator[Chunk]:
    """Cut the rows that have labels into chunks, lazily and in order."""
    for shard in range(len(index.shards)):
        rows = [row for row in index.shard_rows(shard) if keep_N[row]]
        for number, first in enumerate(range(0, len(rows), size)):
            some = rows[first : first + size]
            yield Chunk(shard, number, tuple(some), index.part(range(some[0], some[-1] + 1)))


def row_files(turn: Turn, chunk: Chunk) -> tuple[RowFile, RowFile] | None:
    """The row files of averages and labels, when an earlier attempt has finished this chunk."""
    name = chunk.file(turn.generation)
    # The label's comes last, so it is looked for first.
    if not (turn.labels / name).exists():
        return None
    try:
        headers = [read_header(store, name) for store in (turn.averages, turn.labels)]
    except LabelError:
        return None
    for header in headers:
        same_size = (header.height, header.width) == (turn.side, turn.side)
        if not same_size or header.rows_N.tolist() != list(chunk.rows):
            return None
    return headers[0].file, headers[1].file


def update_chunk(chunk: Chunk, turn: Turn) -> Updated:
    """Update the images of a chunk on one CPU core."""
    return _update(turn, load_network(turn.model, "cpu"), map, nullcontext(), chunk)


def load_update(turn: Turn) -> Callable[[Chunk], Updated]:
    """Load the model once, on the GPU if there is one; what comes back does a chunk."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, lock = load_network(turn.model, device), threading.Lock()
    helpers = ThreadPoolExecutor(HELPERS, "a2s-helper")
    return functools.partial(_update, turn, network, helpers.map, lock)


def passed_on(chunk: Chunk, updated: Updated) -> Updated:
    """Nothing: the process with the GPU has done the chunk."""
    return updated


@functools.cache
def load_network(model: Path, device: str) -> nn.Module:
    """Load a detector for inference only, onto a device, once per process."""
    import torch

    from a2s.models.encoders import exact_on_gpu, fold_batchnorm, use_onednn

    exact_on_gpu()
    network, _ = checkpoint.load_model(model)
    encoder = network.get_submodule("encoder")
    fold_batchnorm(encoder)
    if device == "cpu":
        use_onednn(encoder)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def predict(network: nn.Module, image_BSS3: U8, *, batch_size: int) -> F32:
    """Saliency of images squashed to the network's size.

    Shape: B S S 3 -> B S S. Range: 0..1.
    """
    import torch

    from a2s.data.transforms import normalise

    device = next(network.parameters()).device
    found = []
    with torch.inference_mode():
        for first in range(0, len(image_BSS3), batch_size):
            bytes_BSS3 = torch.from_numpy(image_BSS3[first : first + batch_size]).to(device)
            logits_B1SS = network(normalise(bytes_BSS3.permute(0, 3, 1, 2)))
            found.append(logits_B1SS[:, 0].float().sigmoid().cpu().numpy())
    return np.concatenate(found)


def _update(
    turn: Turn, network: nn.Module, each: Each, lock: AbstractContextManager[Any], chunk: Chunk
) -> Updated:
    rows, on_gpu = range(len(chunk.rows)), next(network.parameters()).is_cuda
    done = Updated(len(chunk.rows))
    now = time.perf_counter()
    image_BSS3 = np.stack(list(each(functools.partial(_image, turn, chunk), rows)))
    now = done.lap("decode", now)
    with lock:
        # One at a time on a CPU: an image has the same label whatever shares its chunk.
        probability_BSS = predict(network, image_BSS3, batch_size=GPU_BATCH if on_gpu else 1)
    now = done.lap("network", now)

    marginal = marginal_of(turn.backend)

    def one(at: int) -> tuple[F32, F32]:
        before_SS = turn.before(chunk.rows[at], 1)
        return hma.update(image_BSS3[at], probability_BSS[at], before_SS, marginal=marginal)

    if turn.backend == "torch":
        with lock:
            pairs = list(map(one, rows))
    else:
        pairs = list(each(one, rows))
    now = done.lap("crf", now)

    name = chunk.file(turn.generation)
    for at, store in enumerate((turn.averages, turn.labels)):
        write_rows(store, name, chunk.rows, np.stack([quantise(pair[at]) for pair in pairs]))
    done.lap("write", now)
    return done


def _image(turn: Turn, chunk: Chunk, at: int) -> U8:
    row = chunk.rows[at] - chunk.rows[0]
    try:
        image_HW3 = decode(chunk.part, row)
    except DataError as error:
        raise DataError(
            f"hma: image {chunk.part.key(row)} of {chunk.part.folder}: {error}"
        ) from None
    return images.resize_rgb(
        image_HW3, height=turn.side, width=turn.side, resize_filter=turn.resize_filter
    )
