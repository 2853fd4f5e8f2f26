"""Labels as stage 2 writes them: generations by all ranks together, at the end label shards.

N rows of the data's index; H, W an image's own size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from a2s.data.images import decode_mask, encode_png
from a2s.data.index import Index
from a2s.data.shards import ShardWriter, remove_leftovers, shard_done
from a2s.labels.store import generations
from a2s.labels.store.generations import Generation
from a2s.labels.store.reader import Bools, LabelSource, resize
from a2s.labels.store.rows import RowFile, RowWriter
from a2s.parallel import ranks
from a2s.storage import files, hashing

AVERAGES = "averages"
"""Folder in a run, beside `labels`, of the moving averages that `a2s hma` makes labels from."""
STEPS_AHEAD = 8
"""Steps whose labels may wait for the disk before training does."""
_COLUMNS = {
    "width": "int32",
    "height": "int32",
    "area_share": "float32",
    "changed_share": "float32",
}


class NextGeneration:
    """The generation that an epoch writes; every rank makes one and calls its methods in step.

    `part` names what an interrupted epoch had committed before `step`.
    """

    def __init__(
        self, store: Path, *, number: int, step: int, part: str | None, keep_N: Bools, side: int
    ) -> None:
        self._store = store
        self._number = number
        self._keep_N = keep_N
        self._side = side
        self._files: list[RowFile] = generations.load_part(store, part) if part else []
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: deque[Future[None]] = deque()
        self._start(step)

    def add(self, rows: Sequence[int], bits_B1SS: Tensor, wait: Callable[[], None]) -> None:
        """Take this rank's labels of a step (`to_u16_bits`); they are there when `wait` returns.

        A thread waits and writes while the next steps run; an error comes with a later call.
        """
        self._pending.append(self._thread.submit(self._write, list(rows), bits_B1SS, wait))
        while len(self._pending) > STEPS_AHEAD:
            self._pending.popleft().result()

    def commit_part(self, step: int) -> str:
        """Make the labels of all steps before `step` durable; return the name a commit keeps."""
        self._gather()
        with ranks.fail_together():
            if ranks.is_main():
                generations.publish_part(
                    self._store, generation=self._number, step=step, files=self._files
                )
        self._start(step)
        return generations.part_name(self._number, step=step)

    def publish(self) -> None:
        """Make the whole generation durable; the last call.

        Raises:
            LabelError: it is not exactly one label per image.
        """
        self._gather()
        self._thread.shutdown()
        with ranks.fail_together():
            if ranks.is_main():
                generations.publish(
                    self._store,
                    generation=self._number,
                    files=self._files,
                    keep_N=self._keep_N,
                    height=self._side,
                    width=self._side,
                )

    def _write(self, rows: list[int], bits_B1SS: Tensor, wait: Callable[[], None]) -> None:
        wait()
        for row, label_SS in zip(rows, bits_B1SS[:, 0].numpy().view(np.uint16), strict=True):
            if row >= 0:
                self._writer.add(row, label_SS)

    def _drain(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    def _start(self, step: int) -> None:
        self._step = step
        self._writer = RowWriter(
            self._store,
            generation=self._number,
            step=step,
            rank=ranks.rank(),
            height=self._side,
            width=self._side,
        )

    def _gather(self) -> None:
        """Rank 0 learns every rank's files: their names follow from how many each has."""
        with ranks.fail_together():
            self._drain()
            num_files = len(self._writer.close())
        num_files_by_rank = ranks.all_gather(torch.tensor([num_files])).flatten().tolist()
        with ranks.fail_together():
            if ranks.is_main():
                self._files += generations.collect(
                    self._store,
                    generation=self._number,
                    step=self._step,
                    num_files_by_rank=num_files_by_rank,
                )


def kept_manifests(run: Path) -> set[str]:
    """Return the names of the label manifests that the commits of a run folder need."""
    names = set()
    for path in (run / "commits").glob("*.json"):
        state = files.read_json(path)["state"]
        if state["generation"]:
            names.add(generations.generation_name(state["generation"]))
        if state["part"]:
            names.add(state["part"])
    return names


def cleaning(run: Path) -> Callable[[], None]:
    """List a run's labels, and averages if it has any, while no rank writes there.

    Returns what removes of these, whenever it is called, those that no commit needs then.
    """
    stores = [store for store in (run / "labels", run / AVERAGES) if store.is_dir()]
    found = {store: generations.contents(store) for store in stores}

    def clean() -> None:
        kept = kept_manifests(run)
        for store, paths in found.items():
            generations.clean(store, keep=kept, found=paths)

    return clean


def write_rectified(
    out: Path, number: int, *, source: LabelSource, index: Index, keep_N: Bools
) -> None:
    """Write generation `number` at the images' own size, values 0 and 255, all ranks together.

    With number 0 nothing was rectified, and the labels are passed on byte for byte.
    Shards that are there already are left alone.
    """
    with ranks.fail_together():
        if ranks.is_main():
            remove_leftovers(out, {shard.name for shard in index.shards})
    with ranks.fail_together():
        generation = Generation.load(source.store, number) if number else None
        for shard in range(ranks.rank(), len(index.shards), ranks.world()):
            _write_shard(
                out, shard, source=source, index=index, keep_N=keep_N, generation=generation
            )


def _write_shard(
    out: Path,
    shard: int,
    *,
    source: LabelSource,
    index: Index,
    keep_N: Bools,
    generation: Generation | None,
) -> None:
    labels, name = source.labels, index.shards[shard].name
    number = generation.number if generation else 0
    settings = hashing.digest([index.fingerprint, labels.fingerprint, number])
    if shard_done(out, name, settings=settings):
        return
    out.mkdir(parents=True, exist_ok=True)
    with ShardWriter(
        out, name, columns=_COLUMNS, settings=settings, num_shards=len(index.shards)
    ) as writer:
        for row in index.shard_rows(shard):
            if not keep_N[row]:
                continue
            data = labels.read(int(source.label_row_N[row]))
            mask_HW = old_HW = decode_mask(data)
            if generation is not None:
                height, width = int(index.height_N[row]), int(index.width_N[row])
                large_HW = resize(generation.read(row), height=height, width=width)
                mask_HW = (large_HW > 0.5).astype(np.uint8) * np.uint8(255)
                data = encode_png(mask_HW)
            same_size = mask_HW.shape == old_HW.shape
            changed_HW = (mask_HW > 127) != (old_HW > 127) if same_size else np.ones(1, bool)
            writer.add(
                index.key(row),
                {"png": data},
                width=mask_HW.shape[1],
                height=mask_HW.shape[0],
                area_share=float((mask_HW > 127).mean()),
                changed_share=float(changed_HW.mean()),
            )
