"""One label generation by a historical moving average: all images of a run, then a commit."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from a2s.config.commands import HmaConfig
from a2s.data.index import Index
from a2s.data.isolation import isolated
from a2s.errors import ConfigError
from a2s.labels.crf.backends import BACKENDS, Backend, choose_backend, marginal_of
from a2s.labels.review import read_decisions
from a2s.labels.store import generations
from a2s.labels.store.reader import Bools, LabelSource, pinned_labels, read_unlabelled
from a2s.labels.store.writer import AVERAGES, list_stale_labels
from a2s.models.saved import NetworkInput, SavedNetwork
from a2s.paper.hma.chunk import (
    STAGES,
    HmaPass,
    LabelledChunk,
    Updated,
    labelled_chunks,
    load_update,
    row_files,
    take_updated,
    update_chunk,
)
from a2s.paper.hma.failing import failures, given_up, keep_old, trials, without
from a2s.parallel import model_actors, pool
from a2s.parallel.progress import Progress
from a2s.storage import checkpoints, run_folder
from a2s.storage.checkpoints import Commit
from a2s.storage.failures import FILE_NAME, write_failures
from a2s.storage.parsing import first_problem


@dataclass(frozen=True)
class Made:
    """What a pass has made: its images, and those that kept their labels because they failed."""

    num_images: int
    num_failed: int
    too_many: bool
    """Whether more failed than may; then nothing was committed."""


class _Parity(BaseModel):
    resize_filter: Literal["bilinear", "bicubic", "nearest"]


class Trained(BaseModel):
    """What a pass must know of the settings with which its run trains."""

    warm_epochs: int = Field(ge=0)
    image_size: int = Field(ge=1, le=2**16)
    parity: _Parity
    inputs: dict[str, str]


def read_trained(run: Path, settings: Mapping[str, Any]) -> Trained:
    """Read the settings that are recorded in a run's folder.

    Raises:
        ConfigError: one is missing or of another kind.
    """
    try:
        return Trained.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(
            f"hma: {run}/config.yaml is damaged ({first_problem(error)}); restore it from a copy"
        ) from None


def make_generation(
    config: HmaConfig,
    run: Path,
    commit: Commit,
    number: int,
    index: Index,
    labels: Index,
    *,
    trained: Trained,
    started: float,
) -> Made:
    """Make and commit generation `number` of averages and labels.

    Images that fail are listed and keep their labels; if too many do, nothing is committed.
    """
    folder = run_folder.RunDir(run, settings_hash="")
    ray_address = None if config.workers == 0 else config.ray_address
    keep_N = read_unlabelled(run, index)
    decisions = read_decisions(run, labels)
    with ExitStack() as stack:
        if ray_address is not None:
            # The devices of the cluster count, not those of the machine that runs the command.
            stack.enter_context(pool.session(workers=None, ray_address=ray_address))
        on_gpu = pool.has_gpu(ray_address)
        side, resize_filter = trained.image_size, trained.parity.resize_filter
        averages, label_row_N = run / AVERAGES, labels.rows_of(index.keys)
        averages.mkdir(exist_ok=True)
        previous = LabelSource(
            *(labels, label_row_N, averages, side, [number - 1]),
            resize_filter=resize_filter,
            pinned=pinned_labels(decisions, index),
        )
        hma_pass = HmaPass(
            model=SavedNetwork.find(run),
            network_input=NetworkInput(side, resize_filter),
            backend=_backend(config, folder, on_gpu=on_gpu),
            previous=previous,
            averages=averages,
            labels=run / "labels",
            generation=number,
        )
        work, failed = _update_all(
            config, hma_pass, index, keep_N, ray_address=ray_address, on_gpu=on_gpu
        )

    if failed:
        write_failures(run, failures(index, failed))
    else:
        (run / FILE_NAME).unlink(missing_ok=True)
    num_images = int(keep_N.sum())
    made = Made(num_images, len(failed), len(failed) > config.max_failure_rate * num_images)
    if made.too_many:
        return made
    files = [
        row_files(hma_pass, chunk, failed=failed)
        for chunk in labelled_chunks(index, keep_N)
        if not failed.keys() >= set(chunk.rows)
    ]
    old_labels = dataclasses.replace(previous, store=run / "labels")
    files += keep_old(hma_pass, failed, old_labels=old_labels)
    for position, store in enumerate((hma_pass.averages, hma_pass.labels)):
        written = [pair[position] for pair in files if pair is not None]
        generations.publish(
            store, generation=number, files=written, keep_N=keep_N, height=side, width=side
        )
    checkpoints.save_again(run, commit, state={**commit.state, "generation": number})
    list_stale_labels(run)()
    wall_sec = time.monotonic() - started
    folder.log(
        event="hma",
        epoch=commit.state["epoch"],
        generation=number,
        wall_sec=round(wall_sec, 3),
        backend=hma_pass.backend,
        then=next_command(config),
        **work,
    )
    return made


def _backend(config: HmaConfig, folder: run_folder.RunDir, *, on_gpu: bool) -> Backend:
    """CRF backend of all passes of a run; the device of the first pass resolves `auto`."""
    chosen = choose_backend(config.backend, on_gpu=on_gpu)
    marginal_of(chosen)
    backend: Backend = folder.resolve_once(
        "hma_backend", lambda: chosen, is_valid=BACKENDS.__contains__
    )
    if config.backend not in ("auto", backend):
        raise ConfigError(
            f"hma: --backend {config.backend}, but {config.out} began with {backend}; leave it out"
        )
    return backend


def _update_all(
    config: HmaConfig,
    hma_pass: HmaPass,
    index: Index,
    keep_N: Bools,
    *,
    ray_address: str | None,
    on_gpu: bool,
) -> tuple[dict[str, object], dict[int, tuple[str, str]]]:
    """Update every chunk that is not done; return numbers for the log, and rows that failed."""
    num_images, num_new = int(keep_N.sum()), 0
    failed: dict[int, tuple[str, str]] = {}
    seconds = dict.fromkeys(STAGES, 0.0)
    workers = pool.resolve_workers(
        config.workers, num_images, ray_address=ray_address, has_threads=True
    )
    fn: Callable[..., Updated] = update_chunk
    common: tuple[object, ...] = (hma_pass,)
    model_stage = None
    if on_gpu:
        fn, common = take_updated, ()
        model_stage = model_actors.ModelStage(functools.partial(load_update, hma_pass))
    elif workers == 0:
        from a2s.models.inference import on_cpu

        # Import torch and read the file once, before the threads start.
        on_cpu(hma_pass.model)
    with Progress(num_images, unit="images", name="hma") as bar:

        def left() -> Any:
            for chunk in labelled_chunks(index, keep_N):
                if row_files(hma_pass, chunk) is None:
                    yield chunk
                else:
                    bar.update(len(chunk.rows))

        results = pool.map_items(
            fn,
            left(),
            workers=workers,
            common=common,
            model_stage=model_stage,
            threads=pool.num_cpus() if workers == 0 else 0,
            isolation=isolated,
            division=pool.Division(trials, without, given_up),
            ray_address=ray_address,
            name=_named,
            note=bar.note,
        )
        with closing(results):
            for done in results:
                num_new += done.num_images - len(done.failed)
                failed |= done.failed
                for stage, sec in done.seconds.items():
                    seconds[stage] += sec
                bar.update(done.num_images)
    return {
        "num_images": num_images,
        "num_new": num_new,
        "num_failed": len(failed),
        "workers": workers,
        "stage_sec": {stage: round(sec, 3) for stage, sec in seconds.items()},
    }, failed


def _named(chunk: LabelledChunk) -> str:
    return f"hma: {chunk}"


def next_command(config: HmaConfig) -> str:
    """Name the command that comes next."""
    return f"the a2s stage2 command of {config.out} again"
