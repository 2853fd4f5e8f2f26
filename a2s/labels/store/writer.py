"""Label writer of stage 2: generations, written by all ranks, and final label shards.

Shapes: N rows of the data's index; H, W an image's own size; B images of a batch; S side of the
network's square input.
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
from a2s.data.origin import IMAGE_CRC32
from a2s.data.shards import ShardWriter, remove_leftovers, shard_done
from a2s.labels.store import generations
from a2s.labels.store.generations import Generation
from a2s.labels.store.reader import Bools, LabelSource, resize
from a2s.labels.store.rows import RowFile, RowWriter
from a2s.parallel import ranks
from a2s.parallel.shared_folder import share_files
from a2s.storage import checkpoints, hashing

AVERAGES = "averages"
"""Subfolder of a run with the moving averages from which `a2s hma` makes labels."""
STEPS_AHEAD = 8
"""Back-pressure: training blocks if the labels of more steps are waiting for the disk."""
_COLUMNS = {
    "width": "int32",
    "height": "int32",
    "area_share": "float32",
    "changed_share": "float32",
    IMAGE_CRC32: "uint32",
}


class NextGeneration:
    """Writes the label generation of one epoch with a background thread.

    Each rank creates one; `commit_part` and `publish` are collective. `part` is the partial
    manifest with the labels that an interrupted epoch had committed before `step`.
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
        """Write this rank's labels of a step (`to_u16_bits`), whose copy ends when `wait` returns.

        A thread waits and writes while the next steps run; a later call raises its errors.
        """
        self._pending.append(self._thread.submit(self._write, list(rows), bits_B1SS, wait))
        while len(self._pending) > STEPS_AHEAD:
            self._pending.popleft().result()

    def commit_part(self, step: int) -> str:
        """Make the labels of all steps before `step` durable; return the name for the commit."""
        self._gather()
        with ranks.fail_together():
            if ranks.is_main():
                generations.publish_part(
                    self._store, generation=self._number, step=step, files=self._files
                )
        self._start(step)
        return generations.part_name(self._number, step=step)

    def publish(self) -> None:
        """Make the complete generation durable; call this last.

        Raises:
            LabelError: an image has no label or several.
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
        # The next epoch reads it.
        share_files()

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
        """Collect all ranks' row files on rank 0; only their number is communicated."""
        with ranks.fail_together():
            self._drain()
            num_files = len(self._writer.close())
        share_files()
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
    """Names of the label manifests that the commits of a run refer to."""
    names = set()
    for path in (run / "commits").glob("*.json"):
        state = checkpoints.read_commit(path).state
        if state.get("generation"):
            names.add(generations.generation_name(state["generation"]))
        if state.get("part"):
            names.add(state["part"])
    return names


def list_stale_labels(run: Path) -> Callable[[], None]:
    """List a run's label files, and averages if any; call this while no rank is writing.

    Returns a function that deletes the listed files that no commit refers to when it is called.
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
    """Write generation `number` as label shards of the images' own size, values 0 and 255.

    Labels that a reviewer fixed or accepted are as they were left. Collective: ranks share the
    shards. With `number` 0 nothing was rectified, and labels are copied
    byte for byte. Finished shards are skipped.
    """
    with ranks.fail_together():
        if ranks.is_main():
            remove_leftovers(out, {shard.name for shard in index.shards})
    with ranks.fail_together():
        generation = Generation.load(source.store, number) if number else None
        settings = _settings(number, source=source, index=index)
        for shard in range(ranks.rank(), len(index.shards), ranks.world()):
            if not shard_done(out, index.shards[shard].name, settings=settings):
                _write_shard(
                    out,
                    shard,
                    settings,
                    source=source,
                    index=index,
                    keep_N=keep_N,
                    generation=generation,
                )
    share_files()


def _settings(number: int, *, source: LabelSource, index: Index) -> str:
    """Hash of what all shards are made of; one for all, as readers expect."""
    inputs = [index.fingerprint, source.labels.fingerprint, number]
    if source.pinned:
        pinned = ((row, png or b"") for row, png in sorted(source.pinned.items()))
        inputs.append([(row, hashing.short_hash(png)) for row, png in pinned])
    return hashing.digest(inputs)


def _write_shard(
    out: Path,
    shard: int,
    settings: str,
    *,
    source: LabelSource,
    index: Index,
    keep_N: Bools,
    generation: Generation | None,
) -> None:
    name = index.shards[shard].name
    out.mkdir(parents=True, exist_ok=True)
    with ShardWriter(
        out, name, columns=_COLUMNS, settings=settings, num_shards=len(index.shards)
    ) as writer:
        writer.extra["data_sha256"] = index.shards[shard].sha256
        for row in index.shard_rows(shard):
            if not keep_N[row]:
                continue
            data = source.png(row)
            mask_HW = old_HW = decode_mask(data)
            if generation is not None and row not in source.pinned:
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
                **{IMAGE_CRC32: int(index.crc32_N[row])},
            )
