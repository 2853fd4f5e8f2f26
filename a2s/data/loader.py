"""Data loader: read this rank's images of an epoch plan and batch them.

Do not pass the loader to Accelerate: the plan has already split the samples among the ranks.
Shapes: B images, S side of the network's square input, W 32-bit words of drop masks.
"""

from __future__ import annotations

import ctypes
import functools
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from a2s.data import images
from a2s.data.batch import Batch
from a2s.data.epoch_plan import Plan
from a2s.data.index import Index
from a2s.data.transforms import draw_flip, draw_keep_words, draw_windows
from a2s.errors import A2SError, ConfigError, DataError
from a2s.storage import places
from a2s.storage.hashing import key_hash

PR_SET_PDEATHSIG = 1
_SOCKET = "/pymp-12345678/listener-12345678"
"""Name of the socket of `multiprocessing` below the folder for temporary files."""

LabelReader = Callable[[int, int], NDArray[np.float32]]
"""(row, epoch) -> label [S,S]; runs in the loader's worker processes."""
ImageFilter = Callable[[int, bool], bool]
"""(row, mirrored) -> whether the image must be decoded; runs in the worker processes."""


class PlanSampler:
    """Batch sampler that yields this rank's rows of each step of the current epoch plan.

    Worker processes persist across epochs, so each request includes its epoch.
    """

    def __init__(self, *, rank: int, world: int) -> None:
        self.rank = rank
        self.world = world
        self.plan: Plan | None = None
        self.start_step = 0
        self.epoch = 0

    def set(self, plan: Plan, *, epoch: int, start_step: int = 0) -> None:
        """Make the next iteration over the loader read `plan` from `start_step` on."""
        self.plan, self.epoch, self.start_step = plan, epoch, start_step

    def __len__(self) -> int:
        assert self.plan is not None, "set() a plan before iterating"
        return self.plan.num_steps - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        assert self.plan is not None, "set() a plan before iterating"
        plan, epoch = self.plan, self.epoch
        for step in range(self.start_step, plan.num_steps):
            rows = plan.rank_batch(step, rank=self.rank, world=self.world)
            yield [(int(row), epoch) for row in rows]


class Images(Dataset[Batch]):
    """Map-style dataset: decoded images resized to a square, random draws, optional labels.

    With `flip_once` an image is mirrored in all epochs or in none. `keep_sides` are the sizes of
    the maps whose dropped pixels are drawn, `crops` is the share of images of which a window is
    to be seen up to `last_crop_epoch`. `resize_filter` is that of `resize_rgb`.
    """

    def __init__(
        self,
        index: Index,
        *,
        image_size: int,
        seed: int,
        read_label: LabelReader | None = None,
        needs_image: ImageFilter | None = None,
        flip_once: bool = False,
        keep_sides: Sequence[tuple[int, int]] = (),
        crops: float = 0.0,
        last_crop_epoch: int = 0,
        resize_filter: str = "bilinear",
    ) -> None:
        self.index = index
        self.image_size = image_size
        self.seed = seed
        self.read_label = read_label
        self.needs_image = needs_image
        self.flip_once = flip_once
        self.keep_sides = keep_sides
        self.crops = crops
        self.last_crop_epoch = last_crop_epoch
        self.resize_filter = resize_filter

    def __len__(self) -> int:
        return len(self.index)

    def __getitems__(self, requests: list[tuple[int, int]]) -> Batch | A2SError:
        """Read one batch; return an error instead of raising it.

        `batches` raises it in the main process. `DataLoader` would wrap an exception of a worker
        in a page of traceback.
        """
        try:
            batch = self._read(requests)
            if get_worker_info() is not None:
                # The queue would do it in a thread whose errors nobody hears of.
                batch.share()
            return batch
        except A2SError as error:
            return error

    def _read(self, requests: list[tuple[int, int]]) -> Batch:
        size, count, seed = self.image_size, len(requests), self.seed
        row_B = torch.tensor([row for row, _ in requests], dtype=torch.int64)
        keys = [self.index.key(row) if row >= 0 else None for row, _ in requests]
        hash_B = torch.tensor([0 if key is None else key_hash(key) for key in keys])
        epoch = requests[0][1]
        # Epochs are counted from 1; epoch 0 stands for draws that hold for the whole run.
        flip_epoch = 0 if self.flip_once else epoch
        flip_B = draw_flip(seed=seed, epoch=flip_epoch, key_hash_B=hash_B)
        keep_BW = None
        if self.keep_sides:
            keep_BW = draw_keep_words(
                seed=seed, epoch=epoch, key_hash_B=hash_B, sides=self.keep_sides
            )
        window_B4 = None
        if self.crops and epoch <= self.last_crop_epoch:
            window_B4 = draw_windows(seed=seed, epoch=epoch, key_hash_B=hash_B, share=self.crops)
        needed = [
            row >= 0 and (self.needs_image is None or self.needs_image(row, mirrored))
            for row, mirrored in zip(row_B.tolist(), flip_B.tolist(), strict=True)
        ]
        side = size if any(needed) or self.needs_image is None else 0
        image_B3SS = torch.zeros(count, 3, side, side, dtype=torch.uint8)
        label_B1SS = torch.zeros(count, 1, size, size) if self.read_label else None
        for slot, row in enumerate(row_B.tolist()):
            if needed[slot]:
                image_B3SS[slot] = self.image(row)
            elif row < 0:
                image_B3SS[slot] = image_B3SS[0]
            if row >= 0 and self.read_label is not None and label_B1SS is not None:
                label_B1SS[slot, 0] = torch.from_numpy(self.read_label(row, epoch))
        return Batch.of(
            image_B3SS=image_B3SS,
            row_B=row_B,
            valid_B=row_B >= 0,
            flip_B=flip_B,
            keep_BW=keep_BW,
            window_B4=window_B4,
            label_B1SS=label_B1SS,
        )

    def image(self, row: int) -> Tensor:
        """Read one image. Shape: uint8 `[3,S,S]`.

        It is decoded without isolation: `a2s shard` has decoded it before.
        """
        data = self.index.read(row)
        limit = max(images.MAX_PIXELS, self.index.pixels(row))
        try:
            image_HW3 = images.decode(data, max_pixels=limit)
        except DataError as error:
            shard = self.index.shards[int(self.index.shard_N[row])]
            raise DataError(
                f"data: {shard.path}: image {self.index.key(row)} cannot be decoded ({error}); run "
                "`a2s shard` again into a new folder, which quarantines the image"
            ) from None
        size, resize_filter = self.image_size, self.resize_filter
        small_SS3 = images.resize_rgb(
            image_HW3, height=size, width=size, resize_filter=resize_filter
        )
        return torch.from_numpy(np.ascontiguousarray(small_SS3.transpose(2, 0, 1)))


def make_loader(
    dataset: Images, sampler: PlanSampler, *, workers: int, pin_memory: bool = False
) -> DataLoader[Batch]:
    """Create a loader with `workers` persistent processes; iterate it once per `sampler.set`.

    Raises:
        ConfigError: there is no shared memory, or no folder for sockets, and workers need both.
    """
    prepare = None
    if workers:
        if not places.is_writable(places.SHARED_MEMORY):
            raise ConfigError(
                f"data: {places.SHARED_MEMORY} cannot be written, and loader processes need it; "
                "use --loader-workers 0"
            )
        prepare = functools.partial(_begin, str(places.for_sockets(len(_SOCKET))))
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=_as_is,  # type: ignore[arg-type]
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers > 0 else None,
        pin_memory=pin_memory,
        worker_init_fn=prepare,
        # Forked workers share the pages of an index of millions of rows.
        multiprocessing_context="fork" if workers > 0 else None,
    )


def batches(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Yield the batches of one epoch, on the CPU.

    Raises:
        DataError: a damaged sample, naming its shard and key. It is not skipped: shards were
            verified when they were written.
    """
    for batch in loader:
        if isinstance(batch, A2SError):
            raise batch
        yield batch


def end_workers(loader: DataLoader[Batch]) -> None:
    """End the worker processes, which live from epoch to epoch and ignore signals."""
    # torch ends them when it frees the iterator, which the loader or a traceback may keep.
    iterator: Any = loader._iterator
    if iterator is None:
        return
    iterator._shutdown_workers()
    for worker in iterator._workers:
        # One that a file system keeps does not hear of it, and has the lock of the run's folder.
        if worker.is_alive():
            worker.kill()


def _as_is(batch: Batch) -> Batch:
    return batch


def _begin(sockets: str, worker: int) -> None:
    """Make a worker die with its parent: as a fork it holds the parent's lock on the run folder.

    `sockets` is the folder for its socket, through which batches are handed over.
    """
    tempfile.tempdir = sockets
    # One process a core is enough.
    cv2.setNumThreads(1)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A terminal or scheduler signals the whole job; the parent needs its workers for the step that
    # it commits.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # Else its signals arrive in the parent's pipe too.
    signal.set_wakeup_fd(-1)
    report = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # After Ctrl-C the parent closes the connection; do not report that.
        if not issubclass(kind, ConnectionError):
            report(kind, error, trace)

    sys.excepthook = hook
