"""`a2s label`: pseudo labels for every image of a data folder (Eqn 5, 6).

It finds the model, claims the folder, and leaves the work to `labels.making.all_shards`.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterator
from contextlib import ExitStack

from a2s.config.base import shard_ranges
from a2s.config.commands import LabelConfig
from a2s.data.index import Index
from a2s.data.shards import remove_leftovers
from a2s.errors import ConfigError
from a2s.labels.making.all_shards import LabelJob, label_shards
from a2s.labels.making.shards import is_done, summarise
from a2s.labels.recipe import with_backend
from a2s.models.bundled import find_model
from a2s.parallel import pool
from a2s.parallel.progress import say_next
from a2s.storage import files, hashing, run_folder
from a2s.storage.failures import FILE_NAME, write_failures
from a2s.storage.status import quality

LEFT_OUT = "left_out.jsonl"
"""Labels below `--min-quality`: key and quality, a line each."""


def run(config: LabelConfig) -> int:
    """Label all shards that have no finished label shard; return 3 if too many images failed.

    Raises:
        CheckpointError: the model is missing or unfinished.
        DataError: the data folder is missing or unfinished.
        ConfigError: the output folder is in use or was made with other settings.
    """
    if config.workers == 0:
        # Everything runs in this process, so only its own devices count.
        config = config.model_copy(update={"ray_address": None})
    index = Index.load(config.data.resolve())
    model, identity = find_model(config.model, for_labels=True)
    inputs = {"data": index.fingerprint, **identity}
    if config.limit is not None:
        index = index.head(config.limit)
    parts = _parts(config, index)
    with ExitStack() as stack:
        if config.ray_address is not None:
            # The devices of the cluster count, not those of the machine that runs the command.
            stack.enter_context(pool.session(workers=None, ray_address=config.ray_address))
        refine = with_backend(
            config.refine,
            on_gpu=lambda: model != "rbd" and pool.has_gpu(config.ray_address),
            recorded=run_folder.recorded(config.out, "refine", "backend"),
        )
        config = config.model_copy(update={"refine": refine})
        settings = run_folder.settings_of("label", config, inputs)

        def todo(settings_hash: str) -> list[int]:
            wanted = range(len(index.shards)) if parts is None else sorted({*_flat(parts)})
            return [n for n in wanted if not is_done(config.out, index, n, settings=settings_hash)]

        if config.dry_run:
            run_folder.compare(config.out, settings)
            _announce(LabelJob(config, index, model, todo(hashing.digest(settings))))
            return 0
        claim = run_folder.claim(
            config.out, command="label", config=config, inputs=inputs, parts=parts
        )
        folder = stack.enter_context(claim)
        work = LabelJob(config, index, model, todo(folder.settings_hash))
        if work.todo:
            remove_leftovers(folder.path, {index.shards[number].name for number in work.todo})
            label_shards(work, folder)
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


def _announce(work: LabelJob) -> None:
    """Print what `--dry-run` would do."""
    config, num_shards = work.config, len(work.index.shards)
    print(
        f"label: would label {work.num_images:,} images in {len(work.todo)} of {num_shards} shards "
        f"of {config.data} into {config.out}, CRF by {config.refine.backend}; nothing was done"
    )


def _conclude(config: LabelConfig, folder: run_folder.RunDir, index: Index, *, num_new: int) -> int:
    """Sum up the manifests, list the failures, name the next command."""
    # The process that comes last finds all shards; an older list must not replace its list.
    with folder.exclusive():
        stock = summarise(folder.path, index, settings=folder.settings_hash)
        assert stock.num_missing == 0 or config.shards is not None, stock
        write_failures(folder.path, stock.failures)
        if config.min_quality > 0:
            lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in stock.left_out)
            files.atomic_write(folder.path / LEFT_OUT, lines)
    state = "" if num_new else "already done: "
    num_shards, num_failed = len(index.shards), len(stock.failures)
    done = f"{num_shards - stock.num_missing} of " if stock.num_missing else ""
    print(
        f"label: {state}{folder.path} holds {stock.num_labels:,} labels in {done}{num_shards} "
        f"shards; {stock.num_empty:,} of them without a salient pixel, {num_failed:,} images failed"
    )
    if stock.num_labels:
        line = quality.describe(stock.quality_counts, num_no_object=stock.num_no_object)
        print(f"label: quality: {line}")
    if stock.left_out:
        print(
            f"label: {len(stock.left_out):,} labels below --min-quality {config.min_quality:g} are "
            f"left out: {folder.path / LEFT_OUT}"
        )
    if num_failed > config.max_failure_rate * stock.num_images:
        print(
            f"label: {num_failed:,} of {stock.num_images:,} images failed, over the limit of "
            f"{config.max_failure_rate:.2%}: {folder.path / FILE_NAME}"
        )
        return 3
    if stock.num_missing:
        say_next(f"the other {stock.num_missing} shards, with other --shards or without")
    else:
        # Labels of the baseline are where stage 1 starts, not what a detector should learn.
        stage, run = ("stage1", "runs/s1") if config.model == "rbd" else ("stage2", "runs/s2")
        paths = ["--data", str(config.data), "--labels", str(config.out)]
        say_next(shlex.join(["a2s", stage, *paths, "--out", run]))
    return 0
