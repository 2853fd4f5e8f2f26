"""Update the labels of one chunk of a shard: the work of one task of `a2s hma`.

A task predicts the images with the committed model, updates their moving averages, makes the
labels and writes both as row files, into the stores `averages` and `labels` of the run folder. So
no pixels are sent, and a resumed pass finds the chunks that are done. All workers share the run
folder. Shapes: B images, S the side of the network's input.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from a2s.data.arrays import F32, U8
from a2s.data.chunks import Chunk
from a2s.data.images import BadImage
from a2s.data.index import Index
from a2s.errors import DataError, LabelError
from a2s.labels.crf.backends import Backend, is_batched, marginal_of
from a2s.labels.store.reader import LabelSource
from a2s.labels.store.rows import RowFile, quantise, read_header, row_file_name, write_rows
from a2s.models.saved import NetworkInput, SavedNetwork
from a2s.paper.hma import rule
from a2s.parallel.gpu_memory import pinned, retry_on_oom
from a2s.parallel.gpu_thread import PREFETCH_THREADS
from a2s.parallel.timing import StageTimer
from a2s.storage.files import is_there

if TYPE_CHECKING:
    from torch import Tensor

    from a2s.models.inference import InferenceModel

CHUNK = 32
"""Images per task and per row file: seconds of work on a core."""
GPU_BATCH = 8
"""Batch size of a forward pass on a GPU; training needs more memory for the same batch."""
STAGES = ("decode", "network", "crf", "write")
"""Stages: read and decode, prediction, both CRFs, row files."""


@dataclass(frozen=True)
class HmaPass:
    """Inputs and outputs that all chunks of a pass share.

    `previous` reads the average that a row had until now, `averages` and `labels` are the stores
    into which `generation` is written. `network_input` is that of the run's training.
    """

    model: SavedNetwork
    network_input: NetworkInput
    backend: Backend
    previous: LabelSource
    averages: Path
    labels: Path
    generation: int


@dataclass(frozen=True)
class LabelledChunk(Chunk):
    """Labelled rows of one shard, by their numbers in the whole index.

    `part` begins with row `first`; it may have rows without a label. A trial writes nothing; it
    looks for images that end their process. `left_out`: those that do, with reason and detail.
    """

    rows: tuple[int, ...]
    first: int
    is_trial: bool = False
    left_out: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def file(self, generation: int) -> str:
        """Name of its row file, in both stores."""
        return row_file_name(generation=generation, step=self.shard, rank=0, number=self.number)


@dataclass
class Updated:
    """Result of a chunk: its number of images, those that failed, and seconds by stage."""

    num_images: int
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Rows without a new label, with reason and detail."""
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


def labelled_chunks(
    index: Index, keep_N: npt.NDArray[np.bool_], *, size: int = CHUNK
) -> Iterator[LabelledChunk]:
    """Cut the rows that have labels into chunks, lazily and in order."""
    for shard in range(len(index.shards)):
        rows = [row for row in index.shard_rows(shard) if keep_N[row]]
        for number, first in enumerate(range(0, len(rows), size)):
            some = rows[first : first + size]
            part = index.part(range(some[0], some[-1] + 1))
            yield LabelledChunk(shard, number, part, tuple(some), some[0])


def row_files(
    hma_pass: HmaPass, chunk: LabelledChunk, *, failed: Container[int] = ()
) -> tuple[RowFile, RowFile] | None:
    """The row files of averages and labels, when an attempt has finished this chunk.

    They must have all its rows but those that `failed`.
    """
    name = chunk.file(hma_pass.generation)
    # The label's row file is written last, so it is looked for first.
    if not is_there(hma_pass.labels / name):
        return None
    try:
        headers = [read_header(store, name) for store in (hma_pass.averages, hma_pass.labels)]
    except LabelError:
        return None
    for header in headers:
        side = hma_pass.network_input.side
        same_size = (header.height, header.width) == (side, side)
        rows = [row for row in chunk.rows if row not in failed]
        if not same_size or header.rows_N.tolist() != rows:
            return None
    return headers[0].file, headers[1].file


@dataclass(frozen=True)
class HmaWorker:
    """A network on a device, and a `map` over the images of a chunk."""

    model: InferenceModel
    each: rule.Each = map
    crf_bytes: int | None = 0
    """Memory for CRFs that are computed together; None: what is free; 0: one at a time, on a CPU
    faster as well."""


def update_chunk(chunk: LabelledChunk, hma_pass: HmaPass) -> Updated:
    """Update the images of a chunk on one CPU core."""
    from a2s.models.inference import on_cpu

    return update_with(HmaWorker(on_cpu(hma_pass.model)), hma_pass, chunk)


def load_update(hma_pass: HmaPass) -> Callable[[LabelledChunk], Updated]:
    """Load the model on the GPU if there is one; return a function that updates a chunk.

    Several threads call it: while one uses the GPU, the others read and decode.
    """
    from a2s.models.inference import on_gpu_or_cpu

    # All forward passes have one shape, so cuDNN plans once.
    model = on_gpu_or_cpu(hma_pass.model, batch_size=GPU_BATCH, batch_shapes="one")
    prefetch = ThreadPoolExecutor(PREFETCH_THREADS, "a2s-prefetch")
    crf_bytes = None if model.device.type == "cuda" else 0
    return functools.partial(update_with, HmaWorker(model, prefetch.map, crf_bytes), hma_pass)


def take_updated(chunk: LabelledChunk, updated: Updated) -> Updated:
    """Return what the actor with the GPU has done; nothing is left to do on the CPU."""
    return updated


def batched_marginals(
    image_BSS3: Tensor, call: Callable[[Callable[[], F32]], F32], *, max_bytes: int | None
) -> rule.Marginals:
    """Return a function that computes the CRF of images on a device in batches.

    A batch takes at most `max_bytes`, or the free memory if that is less or no number is given.
    `call` runs the device's work. An image gets the same bits whatever shares its batch.

    Shape: B S S 3; 2 N of each -> S S of each. Range: 0..1.

    Raises:
        A2SError: not even one image fits.
    """
    import torch

    from a2s.labels.crf.torch_backend import inference

    def marginals(energies: Sequence[F32]) -> F32:
        difference_BN = np.stack([energy_2N[0] - energy_2N[1] for energy_2N in energies])
        device = image_BSS3.device
        (host_BSS,) = pinned([difference_BN.reshape(image_BSS3.shape[:3])], device)

        def on_device() -> F32:
            logit_BSS = host_BSS.to(device, non_blocking=True)

            def computed(max_bytes: int) -> F32:
                found = inference.marginals(
                    image_BSS3.unbind(), logit_BSS.unbind(), rule.CRF, max_bytes=max_bytes
                )
                return torch.stack(found).cpu().numpy()

            least_bytes = inference.BYTES_PER_PIXEL * logit_BSS[0].numel()
            return retry_on_oom(computed, device, least_bytes=least_bytes, most_bytes=max_bytes)

        return inference.as_probability(call(on_device))

    return marginals


def update_with(worker: HmaWorker, hma_pass: HmaPass, chunk: LabelledChunk) -> Updated:
    """Update the images of a chunk, and write its row files; images that fail are not in them.

    Raises:
        DataError: the data shard is damaged.
        A2SError: not even one image fits into the GPU's memory.
    """
    done = Updated(len(chunk.rows), failed=dict(chunk.left_out))
    timer, model, each = StageTimer(done.seconds), worker.model, worker.each
    images = dict[int, U8]()
    wanted = [row for row in chunk.rows if row not in done.failed]
    read = functools.partial(read_input, hma_pass, chunk)
    for row, image_SS3 in zip(wanted, each(read, wanted), strict=True):
        if isinstance(image_SS3, BadImage):
            done.failed[row] = (image_SS3.reason, image_SS3.detail)
        else:
            images[row] = image_SS3
    if not images:
        return done
    image_BSS3 = np.stack(list(images.values()))
    averages = list(each(lambda row: hma_pass.previous(row, 1), images))
    (host_BSS3,) = pinned([image_BSS3], model.device)
    timer.lap("decode")

    def on_device() -> tuple[Tensor, F32]:
        device_BSS3 = host_BSS3.to(model.device, non_blocking=True)
        return device_BSS3, model.saliency(device_BSS3)

    device_BSS3, probability_BSS = model.call(on_device)
    timer.lap("network")

    if is_batched(hma_pass.backend):
        marginals = batched_marginals(device_BSS3, model.call, max_bytes=worker.crf_bytes)
        pairs = rule.update_batch(probability_BSS, averages, marginals=marginals, each=each)
    else:
        one = functools.partial(rule.update, marginal=marginal_of(hma_pass.backend))
        pairs = list(each(one, image_BSS3, probability_BSS, averages))
    timer.lap("crf")

    if chunk.is_trial:
        return done
    name = chunk.file(hma_pass.generation)
    for position, store in enumerate((hma_pass.averages, hma_pass.labels)):
        labels_BSS = np.stack([quantise(pair[position]) for pair in pairs])
        write_rows(store, name, list(images), labels_BSS)
    timer.lap("write")
    return done


def read_input(hma_pass: HmaPass, chunk: LabelledChunk, row: int) -> U8 | BadImage:
    """Read an image as the network sees it, or why it cannot be decoded. Shape: S S 3.

    Raises:
        DataError: its bytes are not those that were packed; names it.
    """
    row_in_part = row - chunk.first
    try:
        return hma_pass.network_input.resize(chunk.decode(row_in_part))
    except BadImage as error:
        return error
    except DataError as error:
        key, folder = chunk.part.key(row_in_part), chunk.part.folder
        raise DataError(f"hma: image {key} of {folder}: {error}") from None
