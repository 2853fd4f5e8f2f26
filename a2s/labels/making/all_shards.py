"""Label every shard of a data folder with a pool of workers.

A chunk of one shard is the unit of work. On CPUs a task does all of it. With GPUs an actor per GPU
computes activation maps, and by default the dense CRF; a task on any CPU does the rest. When all
chunks of a shard are done, its label shard is written, the manifest last.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from a2s.config.commands import LabelConfig
from a2s.data.chunks import chunks
from a2s.data.index import Index
from a2s.data.isolation import isolated
from a2s.labels.making.chunk import (
    Labelled,
    given_up,
    halves,
    label_chunk,
    merged,
    refine_chunk,
)
from a2s.labels.making.shards import write_shard
from a2s.labels.making.timing import StageTimes
from a2s.labels.quality import Source
from a2s.labels.recipe import crf_is_batched, recipe_of
from a2s.models.saved import Model, NetworkInput
from a2s.parallel import bottleneck, model_actors, pool
from a2s.parallel.progress import Progress
from a2s.storage import run_folder

CPU_CHUNK = 32
"""Largest task on CPUs, in images: seconds of work, so that the last task ends soon."""


@dataclass(frozen=True)
class LabelJob:
    """Shards to label, the model and the settings."""

    config: LabelConfig
    index: Index
    model: Model
    todo: list[int]

    @property
    def num_images(self) -> int:
        """Images of the shards that are to be done."""
        return sum(self.index.shards[number].count for number in self.todo)

    @property
    def network_input(self) -> NetworkInput:
        """Input of the network: images at the training size, or at their own size."""
        return network_input(self.model, self.config.parity.network_size)

    @property
    def most_pixels(self) -> int:
        """Pixels of the largest image that the network sees."""
        side = self.network_input.side
        if side is not None:
            return side**2
        pixels_N = self.index.height_N.astype(np.int64) * self.index.width_N
        return int(pixels_N.max(initial=1))


def network_input(model: Model, network_size: Literal["trained", "own"]) -> NetworkInput:
    """Input of the network: images at the training size, or at their own size."""
    if model == "rbd" or network_size == "own":
        return NetworkInput(None)
    return model.trained_input


def label_shards(work: LabelJob, folder: run_folder.RunDir) -> None:
    """Label the shards that are to be done, write each when its last chunk is in, and report.

    Raises:
        A2SError: a task failed too often, or not even one image fits into a GPU's memory.
    """
    config, index = work.config, work.index
    workers = pool.resolve_workers(
        config.workers, work.num_images, ray_address=config.ray_address, has_threads=True
    )
    threads = pool.num_cpus() if workers == 0 else 0
    model = work.model
    on_gpu = model != "rbd" and pool.has_gpu(config.ray_address)
    sign_tie = None if model == "rbd" else model.sign_tie
    recipe = recipe_of(
        config.refine,
        crf_input=config.parity.crf_input,
        sign_tie=sign_tie,
        source=_source(model),
    )
    model_stage = None
    size = _chunk_size(work, folder, workers=workers, on_gpu=on_gpu)
    fn: Callable[..., Labelled] = label_chunk
    common: tuple[object, ...] = (model, work.network_input, recipe)
    if on_gpu and model != "rbd":
        from a2s.labels.making.gpu import load_activation

        on_gpu_recipe = recipe if crf_is_batched(config.refine) else None
        load = functools.partial(load_activation, model, work.network_input, size, on_gpu_recipe)
        fn, common, model_stage = refine_chunk, (recipe,), model_actors.ModelStage(load)
    elif threads and model != "rbd":
        from a2s.models.inference import on_cpu

        # Import torch and read the file once, before the threads start.
        on_cpu(model)

    totals, started = StageTimes(), time.monotonic()
    done = len(index) - work.num_images
    with Progress(len(index), unit="images", name="label", done=done) as bar:
        bar.note(
            f"{work.num_images:,} images in {len(work.todo)} shards; "
            f"{_describe_workers(workers, threads, on_gpu)}; CRF by {config.refine.backend}; "
            f"{size} images at a time"
        )
        write = functools.partial(
            write_shard,
            folder.path,
            index,
            settings=folder.settings_hash,
            min_quality=config.min_quality,
        )
        results = pool.map_items(
            fn,
            chunks(index, todo=work.todo, size=size),
            workers=workers,
            common=common,
            model_stage=model_stage,
            threads=threads,
            isolation=isolated,
            division=pool.Division(halves, merged, given_up),
            ray_address=config.ray_address,
            note=bar.note,
            tally=totals.tally,
        )
        for number in work.todo:
            # A shard is empty if all of its images were quarantined when it was packed.
            if index.shards[number].count == 0:
                write(number, [])
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
                    write(result.shard, in_order)
                slowest = bottleneck.bottleneck(totals.groups(threads))
                bar.update(len(result.labels) + len(result.failures), bottleneck=slowest)
    assert not pending, sorted(pending)
    totals.wall_sec = time.monotonic() - started
    _report(totals, work, threads=threads, folder=folder)


def _source(model: Model) -> Source:
    """What the labels come from, which says how their quality is estimated."""
    if model == "rbd":
        return "rbd"
    if model.kind == "detector":
        return "detector"
    return "votes" if model.num_voters > 1 else "head"


def _describe_workers(workers: int | None, threads: int, on_gpu: bool) -> str:
    who = f"{workers} Ray workers" if workers else "all CPUs of the Ray cluster"
    who = f"{threads} threads of this process" if threads else who
    return f"network on the GPU, the rest by {who}" if on_gpu else who


def _chunk_size(
    work: LabelJob, folder: run_folder.RunDir, *, workers: int | None, on_gpu: bool
) -> int:
    """Images per task, on a GPU also per forward pass; a resumed job keeps it for equal maps."""
    if work.config.batch_size != "auto":
        return work.config.batch_size
    share = work.num_images // (8 * (workers or pool.num_cpus()))
    if not on_gpu:
        return max(1, min(CPU_CHUNK, share))

    def fitting() -> int:
        from a2s.labels.making.batch_size import fitting_batch

        assert work.model != "rbd", "the baseline runs on CPUs"
        probe = functools.partial(fitting_batch, work.model, work.most_pixels)
        if workers == 0:
            # With the CRF on the GPU the CPUs have little to do: a few chunks keep them busy.
            part = work.num_images // 16 if crf_is_batched(work.config.refine) else share
            return min(probe(), max(8, part))
        asked = pool.map_items(
            _take_prepared,
            [0],
            workers=1,
            model_stage=model_actors.ModelStage(functools.partial(_constant, probe)),
            ray_address=work.config.ray_address,
        )
        return min(*asked, max(8, share))

    size: int = folder.resolve_once(
        "batch_size", fitting, is_valid=lambda stored: type(stored) is int and stored > 0
    )
    return size


def _constant(probe: Callable[[], int]) -> Callable[[object], int]:
    return lambda item: probe()


def _take_prepared(item: object, prepared: int) -> int:
    return prepared


def _report(totals: StageTimes, work: LabelJob, *, threads: int, folder: run_folder.RunDir) -> None:
    """Print and log the speed of each stage, waiting times and the bottleneck."""
    groups, tally = totals.groups(threads), totals.tally
    for line in bottleneck.describe(work.num_images, totals.wall_sec, groups):
        print(f"label: {line}")
    if len(tally.node_sec) > 1:
        total = sum(tally.node_sec.values())
        shares = ", ".join(f"{sec / total:.0%}" for sec in tally.node_sec.values())
        print(f"label: shares of {len(tally.node_sec)} nodes in the work: {shares}")
    folder.log(
        event="labelled",
        backend=work.config.refine.backend,
        **bottleneck.record(work.num_images, totals.wall_sec, groups),
        work_sec_by_node=tally.node_sec,
        workers_crashed=tally.crashed,
        tasks_timed_out=tally.timed_out,
        tasks_copied=tally.speculative_copies,
    )
