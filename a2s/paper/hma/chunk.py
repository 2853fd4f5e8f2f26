"""What a worker does with one chunk of a shard on the way to the next generation (`a2s hma`).

It predicts the images with the committed model, updates their moving averages, makes the labels,
and writes both as row files: a store named `averages` beside `labels`, with the same generations.
So no pixels travel, and who resumes a pass finds what is done. The run's folder is shared by all
workers, as it is by all ranks. Shapes: B images, S the side of the network's input.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from a2s.data import images
from a2s.data.index import Index
from a2s.errors import DataError, LabelError
from a2s.labels.crf.backends import Backend, marginal_of
from a2s.labels.crf.energy import F32, U8
from a2s.labels.making.chunk import decode
from a2s.labels.store.reader import LabelSource
from a2s.labels.store.rows import RowFile, quantise, read_header, row_file_name, write_rows
from a2s.models import saved
from a2s.paper.hma import rule
from a2s.parallel.gpu_memory import retry_on_oom
from a2s.parallel.gpu_thread import device_thread

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

CHUNK = 32
"""Images per task, and so per row file: seconds of work on a core."""
GPU_BATCH = 8
"""Images per forward pass on a GPU; training needs more memory for as many."""
HELPERS = 8
"""Threads per GPU that read, decode, and where the CRF is the CPU's, compute it."""
STAGES = ("decode", "network", "crf", "write")

Run = Callable[[Callable[[], Any]], Any]
"""Calls a function, where and when it may use the device."""


@dataclass(frozen=True)
class HmaPass:
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


def row_files(turn: HmaPass, chunk: Chunk) -> tuple[RowFile, RowFile] | None:
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


@dataclass(frozen=True)
class _Place:
    """A network on a device, how to have something done there, and for each of several images."""

    network: nn.Module
    device: torch.device
    run: Run
    each: rule.Each
    batch_size: int = 1
    crf_bytes: int | None = 0
    """Memory for CRFs that are computed together; None: what is free; 0: one at a time, on a CPU
    faster as well."""


def update_chunk(chunk: Chunk, turn: HmaPass) -> Updated:
    """Update the images of a chunk on one CPU core."""
    import torch

    def run(function: Callable[[], Any]) -> Any:
        return function()

    network, device = load_network(turn.model, "cpu"), torch.device("cpu")
    return _update(turn, _Place(network, device, run, map), chunk)


def load_update(turn: HmaPass) -> Callable[[Chunk], Updated]:
    """Load the model once, on the GPU if there is one; what comes back does a chunk.

    Several threads call it: while one has the device, the others read and decode.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    helpers = ThreadPoolExecutor(HELPERS, "a2s-helper")
    network = load_network(turn.model, device.type)
    # One at a time on a CPU: an image has the same label whatever shares its chunk.
    batch_size, crf_bytes = (GPU_BATCH, None) if device.type == "cuda" else (1, 0)
    place = _Place(network, device, device_thread(), helpers.map, batch_size, crf_bytes)
    return functools.partial(_update, turn, place)


def identity_step(chunk: Chunk, updated: Updated) -> Updated:
    """Nothing: the process with the GPU has done the chunk."""
    return updated


@functools.cache
def load_network(model: Path, device: str) -> nn.Module:
    """Load a detector for inference only, onto a device, once per process."""
    from a2s.models.inference import prepare_for_inference

    network, _ = saved.load_model(model)
    prepare_for_inference(network, device)
    return network


def predict(network: nn.Module, image_BSS3: Tensor, *, batch_size: int) -> F32:
    """Saliency of images on the network's device, squashed to its size.

    All forward passes have one shape, for which a GPU makes plans once: the last batch is filled up
    with copies, which change nothing for the others. The device is waited for at the end.

    Shape: B S S 3 -> B S S. Range: 0..1.
    """
    import torch

    from a2s.models.inference import as_input

    num_images = len(image_BSS3)
    copy_BSS3 = image_BSS3[-1:].expand(-num_images % batch_size, -1, -1, -1)
    found = []
    with torch.inference_mode():
        for bytes_BSS3 in torch.split(torch.cat([image_BSS3, copy_BSS3]), batch_size):
            found.append(network(as_input(network, bytes_BSS3))[:, 0].float().sigmoid())
        return torch.cat(found)[:num_images].cpu().numpy()


def marginals_of(image_BSS3: Tensor, run: Run, *, max_bytes: int | None) -> rule.Marginals:
    """The CRF in torch of images that lie on a device, together as far as `max_bytes` allow.

    Of what is free, if that is less or no number is given. Raises: A2SError when not even one image
    fits.

    An image gets the same numbers, to the last bit, whatever its companions.

    Shape: B S S 3; 2 N of each -> S S of each. Range: 0..1.
    """
    import torch

    from a2s.labels.crf.torch_backend import inference

    def marginals(energies: Sequence[F32]) -> F32:
        difference_BN = np.stack([energy_2N[0] - energy_2N[1] for energy_2N in energies])
        logit_BSS = _pinned(difference_BN.reshape(image_BSS3.shape[:3]), image_BSS3.device)

        def on_device() -> F32:
            there_BSS = logit_BSS.to(image_BSS3.device, non_blocking=True)

            def computed(max_bytes: int) -> F32:
                found = inference.marginals(
                    image_BSS3.unbind(), there_BSS.unbind(), rule.CRF, max_bytes=max_bytes
                )
                return torch.stack(found).cpu().numpy()

            least_bytes = inference.BYTES_PER_PIXEL * there_BSS[0].numel()
            return retry_on_oom(
                computed, image_BSS3.device, least_bytes=least_bytes, most_bytes=max_bytes
            )

        s_BSS: F32 = run(on_device)
        return inference.as_probability(s_BSS)

    return marginals


def _pinned(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array where a GPU can copy from while the host goes on."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" else tensor


def _update(turn: HmaPass, place: _Place, chunk: Chunk) -> Updated:
    done = Updated(len(chunk.rows))
    now = time.perf_counter()
    image_BSS3 = np.stack(list(place.each(functools.partial(_image, turn, chunk), chunk.rows)))
    averages = list(place.each(lambda row: turn.before(row, 1), chunk.rows))
    waiting_BSS3 = _pinned(image_BSS3, place.device)
    now = done.lap("decode", now)

    def on_device() -> tuple[Tensor, F32]:
        there_BSS3 = waiting_BSS3.to(place.device, non_blocking=True)
        return there_BSS3, predict(place.network, there_BSS3, batch_size=place.batch_size)

    there_BSS3, probability_BSS = place.run(on_device)
    now = done.lap("network", now)

    if turn.backend == "torch":
        marginals = marginals_of(there_BSS3, place.run, max_bytes=place.crf_bytes)
        pairs = rule.update_batch(probability_BSS, averages, marginals=marginals, each=place.each)
    else:
        one = functools.partial(rule.update, marginal=marginal_of(turn.backend))
        pairs = list(place.each(one, image_BSS3, probability_BSS, averages))
    now = done.lap("crf", now)

    name = chunk.file(turn.generation)
    for at, store in enumerate((turn.averages, turn.labels)):
        write_rows(store, name, chunk.rows, np.stack([quantise(pair[at]) for pair in pairs]))
    done.lap("write", now)
    return done


def _image(turn: HmaPass, chunk: Chunk, row: int) -> U8:
    at = row - chunk.rows[0]
    try:
        image_HW3 = decode(chunk.part, at)
    except DataError as error:
        raise DataError(
            f"hma: image {chunk.part.key(at)} of {chunk.part.folder}: {error}"
        ) from None
    return images.resize_rgb(
        image_HW3, height=turn.side, width=turn.side, resize_filter=turn.resize_filter
    )
