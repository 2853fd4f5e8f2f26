"""Pseudo labels for every image of a data folder: activation, sign, CRF, median (Eqn 5, 6).

A chunk of one shard is the unit of work. On CPUs a task does all of it; where there are GPUs, a
model per GPU makes its activation maps and a task on any CPU refines them. When all chunks of a
shard are in, the label shard is written, its manifest last. S is the network's input size.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from a2s import bottleneck, checkpoint, pool, rundir
from a2s.config import LabelConfig
from a2s.data.tars import Index, remove_leftovers, shard_done
from a2s.errors import ConfigError
from a2s.labelling import (
    Labelled,
    chunks,
    input_size,
    label_chunk,
    load_network,
    refine_chunk,
    sign_tie,
)
from a2s.labelreport import Totals
from a2s.labelsetup import has_gpu, recipe_of, with_backend
from a2s.labelshards import take_stock, write_shard
from a2s.options import shard_ranges
from a2s.progress import Progress

CPU_CHUNK = 32
"""Images per task on CPUs, at most: seconds of work, so that nobody waits long for the last."""


@dataclass(frozen=True)
class Work:
    """What to label, with what."""

    config: LabelConfig
    index: Index
    model: Path
    image_size: int
    """Side of the squares that the network was trained with."""
    todo: list[int]

    @property
    def num_images(self) -> int:
        """Images of the shards that are to be done."""
        return sum(self.index.shards[number].count for number in self.todo)

    @property
    def network_size(self) -> int | None:
        """Side at which the network sees images; None is their own size."""
        return self.image_size if self.config.network_size == "trained" else None

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest image that the network sees."""
        if self.network_size is not None:
            return self.network_size**2
        pixels_N = self.index.height_N.astype(np.int64) * self.index.width_N
        return int(pixels_N.max(initial=1))


def run(config: LabelConfig) -> int:
    """Label all shards that have no finished label shard yet; 3 when too many images failed.

    Raises:
        CheckpointError: the model is missing, or is not a stage-1 model.
        DataError: the data folder is missing or unfinished.
        ConfigError: the output folder is in use or was made with other settings.
    """
    if config.workers == 0:
        # This process does it all: no device but its own counts.
        config = config.model_copy(update={"ray_address": None})
    index = Index.load(config.data.resolve())
    model = checkpoint.resolve_model(config.model).resolve()
    image_size = input_size(model)
    inputs = {"data": index.fingerprint, **checkpoint.inputs_of(model)}
    if config.limit is not None:
        index = index.head(config.limit)
    parts = _parts(config, index)
    with ExitStack() as stack:
        if config.ray_address is not None:
            # The cluster's devices decide, not those of the machine that the command runs on.
            stack.enter_context(pool.session(workers=None, ray_address=config.ray_address))
        refine = with_backend(
            config.refine,
            ray_address=config.ray_address,
            recorded=rundir.recorded(config.out, "refine", "backend"),
        )
        config = config.model_copy(update={"refine": refine})
        settings = rundir.settings_of("label", config, inputs)

        def todo(settings_hash: str) -> list[int]:
            wanted = range(len(index.shards)) if parts is None else sorted({*_flat(parts)})
            return [
                number
                for number in wanted
                if shard_done(config.out, index.shards[number].name, settings=settings_hash) is None
            ]

        if config.dry_run:
            settings = rundir.compare(config.out, settings, rundir.unnamed(config))
            _announce(Work(config, index, model, image_size, todo(rundir.digest(settings))))
            return 0
        claim = rundir.claim(config.out, command="label", config=config, inputs=inputs, parts=parts)
        folder = stack.enter_context(claim)
        work = Work(config, index, model, image_size, todo(folder.settings_hash))
        if work.todo:
            remove_leftovers(folder.path, {index.shards[number].name for number in work.todo})
            _label_shards(work, folder)
        return _conclude(config, folder, index, num_new=len(work.todo))


def _parts(config: LabelConfig, index: Index) -> list[range] | None:
    if config.shards is None:
        return None
    parts, last = shard_ranges(config.shards), len(index.shards) - 1
    beyond = [part for part in parts if part.start > last]
    if beyond:
        raise ConfigError(f"label: --shards {config.shards}: {config.data} has shards 0-{last}")
    return [range(part.start, min(part.stop, last + 1)) for part in parts]


def _flat(parts: Collection[range]) -> Iterator[int]:
    for part in parts:
        yield from part


def _announce(work: Work) -> None:
    """What `--dry-run` says."""
    config, num_shards = work.config, len(work.index.shards)
    print(
        f"label: would label {work.num_images:,} images in {len(work.todo)} of {num_shards} shards "
        f"of {config.data} into {config.out}, CRF by {config.refine.backend}; nothing was done"
    )


def _label_shards(work: Work, folder: rundir.RunDir) -> None:
    config, index = work.config, work.index
    workers = pool.resolve_workers(config.workers, work.num_images, ray_address=config.ray_address)
    threads = pool.num_cpus() if workers == 0 else 0
    on_gpu = has_gpu(config.ray_address)
    size = _chunk_size(work, folder, workers=workers, on_gpu=on_gpu)
    recipe, before = recipe_of(config.refine, sign_tie=sign_tie(work.model)), None
    fn: Callable[..., Labelled] = label_chunk
    common: tuple[object, ...] = (work.model, work.network_size, recipe)
    if on_gpu:
        from a2s.activating import load_activation

        on_device = recipe if config.refine.backend == "torch" else None
        load = functools.partial(load_activation, work.model, work.network_size, size, on_device)
        fn, common, before = refine_chunk, (recipe,), pool.Before(load)
    elif threads:
        # Before the threads start: torch is imported and the file read once.
        load_network(work.model)

    totals, started = Totals(), time.monotonic()
    done = len(index) - work.num_images
    with Progress(len(index), unit="images", name="label", done=done) as bar:
        bar.note(
            f"{work.num_images:,} images in {len(work.todo)} shards; "
            f"{_hands(workers, threads, on_gpu)}; CRF by {config.refine.backend}; "
            f"{size} images at a time"
        )
        results = pool.map_shards(
            fn,
            chunks(index, todo=work.todo, size=size),
            workers=workers,
            common=common,
            before=before,
            threads=threads,
            ray_address=config.ray_address,
            note=bar.note,
            tally=totals.tally,
        )
        for number in work.todo:
            # All images of a shard may have been quarantined when it was packed.
            if index.shards[number].count == 0:
                write_shard(folder.path, index, number, [], settings=folder.settings_hash)
        # Chunks come in any order; a shard is held until its last one is in.
        pending: dict[int, dict[int, Labelled]] = {}
        with closing(results):
            for result in results:
                totals.add(result)
                totals.wall_sec = time.monotonic() - started
                arrived = pending.setdefault(result.shard, {})
                arrived[result.number] = result
                if len(arrived) == -(-index.shards[result.shard].count // size):
                    in_order = [part for _, part in sorted(pending.pop(result.shard).items())]
                    write_shard(
                        folder.path, index, result.shard, in_order, settings=folder.settings_hash
                    )
                held_up = bottleneck.bottleneck(totals.sides(threads))
                bar.update(len(result.labels) + len(result.failures), bottleneck=held_up)
    assert not pending, sorted(pending)
    totals.wall_sec = time.monotonic() - started
    _report(totals, work, threads=threads, folder=folder)


def _hands(workers: int | None, threads: int, on_gpu: bool) -> str:
    who = f"{workers} Ray workers" if workers else "all CPUs of the Ray cluster"
    who = f"{threads} threads of this process" if threads else who
    return f"network on the GPU, the rest by {who}" if on_gpu else who


def _chunk_size(work: Work, folder: rundir.RunDir, *, workers: int | None, on_gpu: bool) -> int:
    """Images per task; on a GPU also per forward pass, so that all runs here make equal maps."""
    if work.config.batch_size != "auto":
        return work.config.batch_size
    share = work.num_images // (8 * (workers or pool.num_cpus()))
    if not on_gpu:
        return max(1, min(CPU_CHUNK, share))

    def fitting() -> int:
        from a2s.gpumemory import fitting_batch

        probe = functools.partial(fitting_batch, work.model, work.image_size, work.most_pixels)
        if workers == 0:
            # With the CRF on the GPU too, the rest is little work: a few parts keep all busy.
            part = work.num_images // 16 if work.config.refine.backend == "torch" else share
            return min(probe(), max(8, part))
        before = pool.Before(functools.partial(_constant, probe))
        asked = pool.map_shards(
            _second, [0], workers=1, before=before, ray_address=work.config.ray_address
        )
        return min(*asked, max(8, share))

    return int(folder.remember("batch_size", fitting))


def _constant(probe: Callable[[], int]) -> Callable[[object], int]:
    return lambda item: probe()


def _second(item: object, found: int) -> int:
    return found


def _report(totals: Totals, work: Work, *, threads: int, folder: rundir.RunDir) -> None:
    """Say how fast each stage was, who waited, and for whom."""
    sides, tally = totals.sides(threads), totals.tally
    for line in bottleneck.describe(work.num_images, totals.wall_sec, sides):
        print(f"label: {line}")
    if len(tally.node_sec) > 1:
        total = sum(tally.node_sec.values())
        shares = ", ".join(f"{sec / total:.0%}" for sec in tally.node_sec.values())
        print(f"label: shares of {len(tally.node_sec)} nodes in the work: {shares}")
    folder.log(
        event="labelled",
        backend=work.config.refine.backend,
        **bottleneck.record(work.num_images, totals.wall_sec, sides),
        work_sec_by_node=tally.node_sec,
        workers_crashed=tally.crashed,
        tasks_timed_out=tally.timed_out,
        tasks_copied=tally.copied,
    )


def _conclude(config: LabelConfig, folder: rundir.RunDir, index: Index, *, num_new: int) -> int:
    """Sum up the manifests, list the failures, name the next command."""
    # Whoever comes last finds all shards; an older list must not replace its list.
    with folder.one_at_a_time():
        stock = take_stock(folder.path, index, settings=folder.settings_hash)
        assert stock.num_missing == 0 or config.shards is not None, stock
        lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in stock.failures]
        rundir.atomic_write(folder.path / "failures.jsonl", "".join(lines))
    state = "" if num_new else "already done: "
    num_shards, num_failed = len(index.shards), len(stock.failures)
    done = f"{num_shards - stock.num_missing} of " if stock.num_missing else ""
    print(
        f"label: {state}{folder.path} holds {stock.num_labels:,} labels in {done}{num_shards} "
        f"shards; {stock.num_empty:,} of them without a salient pixel, {num_failed:,} images failed"
    )
    if num_failed > config.max_failure_rate * stock.num_images:
        print(
            f"label: {num_failed:,} of {stock.num_images:,} images failed, over the limit of "
            f"{config.max_failure_rate:.2%}: {folder.path / 'failures.jsonl'}"
        )
        return 3
    if stock.num_missing:
        print(f"next: the other {stock.num_missing} shards, with other --shards or without")
    else:
        print(f"next: a2s stage2 --data {config.data} --labels {config.out} --out runs/s2")
    return 0
