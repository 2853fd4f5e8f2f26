"""`a2s shard`: pack images into WebDataset shards with an index; quarantine damaged images.

The inputs are listed once into `work.parquet` (row group i = shard i), so that a resumed run cuts
the same shards. Each shard is one task that writes its own files, the manifest last.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from a2s.config.commands import ShardConfig
from a2s.data import masks, work_list
from a2s.data.added import added_since
from a2s.data.file_tree import refuse_same
from a2s.data.index import Index
from a2s.data.inputs import collect
from a2s.data.isolation import isolated
from a2s.data.left_out import describe_lost, describe_skipped, over_limit
from a2s.data.listed_tars import bring_back, resized
from a2s.data.packing import MASK_TOLERANCE, PackingJob, PackingTask, pack, trials
from a2s.data.shards import shard_done, shard_name
from a2s.data.tar_inputs import STAGING
from a2s.errors import DataError
from a2s.parallel import pool
from a2s.parallel.progress import Progress, say_next
from a2s.storage.failures import FILE_NAME, Failure, write_failures
from a2s.storage.files import atomic_write, read_json, remove_temporary
from a2s.storage.parsing import printable
from a2s.storage.run_folder import RunDir, claim

SECONDS_PER_IMAGE = 5.0
ADDED = "added.txt"
"""List of the images that came after a folder was begun."""


def run(config: ShardConfig) -> int:
    """Pack the images; return 0, or 3 when too many of them could not be used.

    Raises:
        ConfigError: an input does not exist, or is the output folder, which may also belong to
            another run.
        DataError: an input holds no image or cannot be read, or images were added, or a tar has
            changed, since the first call, which listed them.
    """
    refuse_same(config.images, config.out)
    with claim(config.out, command="shard", config=config) as folder:
        is_new = not (folder.path / work_list.WORK).exists()
        frozen = _frozen_work(config, folder)
        work = PackingJob(
            out=Path(os.path.abspath(config.out)),
            settings=folder.settings_hash,
            num_shards=frozen["num_shards"],
            max_side=config.max_side,
            max_pixels=config.max_pixels,
        )
        manifests = {
            number: manifest
            for number in range(work.num_shards)
            if (manifest := shard_done(work.out, shard_name(number), settings=work.settings))
        }
        pending = [number for number in range(work.num_shards) if number not in manifests]
        if pending:
            bring_back(frozen.get("tars", ()), staging=work.out / STAGING)
            _pack_all(config, folder, work, pending, frozen["num_images"])
        elif (work.out / FILE_NAME).exists():
            print(f"shard: {config.out} is done already")
        code = _finish(config, work, frozen)
        if not is_new and frozen["num_images"] != config.limit:
            _refuse_added(config, work, frozen)
        return code


def _frozen_work(config: ShardConfig, folder: RunDir) -> dict[str, Any]:
    """List the inputs, or read the list of an earlier attempt."""
    if os.path.lexists(folder.path / work_list.WORK):
        return work_list.read(folder.path, shard_size=config.shard_size)
    remove_temporary(folder.path)
    found = collect(
        config.images,
        masks=config.masks,
        out=Path(os.path.abspath(folder.path)),
        mask_pattern=config.mask_pattern,
    )
    images_wanted = found.images.slice(0, config.limit)
    num_images = len(images_wanted)
    frozen = {
        "num_images": num_images,
        "num_shards": -(-num_images // config.shard_size),
        "failures": found.failures,
        "stray_masks": found.stray_masks,
        "skipped": found.skipped,
        "without_mask": images_wanted["mask_path"].null_count,
        "num_lost": found.num_lost,
        "lost_is_known": found.lost_is_known,
        "tars": found.tars,
    }
    work_list.write(folder.path, images_wanted, frozen, shard_size=config.shard_size)
    return frozen


def _pack_all(
    config: ShardConfig, folder: RunDir, work: PackingJob, pending: list[int], num_images: int
) -> None:
    remove_temporary(work.out)
    left = min(num_images, len(pending) * config.shard_size)
    failed = 0
    with Progress(num_images, unit="images", name="shard", done=num_images - left) as progress:
        for result in pool.map_items(
            pack,
            [PackingTask(number, range(_count(number, config, num_images))) for number in pending],
            workers=pool.resolve_workers(config.workers, left, ray_address=config.ray_address),
            common=(work,),
            isolation=isolated,
            division=pool.Division(trials, _without, _left_out),
            ray_address=config.ray_address,
            deadline_sec=max(900.0, SECONDS_PER_IMAGE * config.shard_size),
            note=progress.note,
        ):
            failed += result["quarantined"]
            progress.update(result["count"] + result["quarantined"], quarantined=failed)
            folder.log(**result)
    # Workers that were killed, while the command lived, have left some.
    remove_temporary(work.out)


def _count(number: int, config: ShardConfig, num_images: int) -> int:
    """Number of images that a shard is made of."""
    return min(config.shard_size, num_images - number * config.shard_size)


def _without(
    task: PackingTask, results: list[dict[str, Any]]
) -> dict[str, Any] | pool.Again[PackingTask]:
    """What to do after the trials of a task: write the shard without the images at fault."""
    left_out = {row: why for result in results for row, why in result["left_out"].items()}
    if task.is_trial:
        return {"left_out": left_out}
    return pool.Again(dataclasses.replace(task, left_out=left_out))


def _left_out(task: PackingTask, reason: str, detail: str) -> dict[str, Any]:
    return {"left_out": {task.rows.start: (reason, detail)}}


def _finish(config: ShardConfig, work: PackingJob, frozen: dict[str, Any]) -> int:
    """Collect the failures of all shards into one file, and print a summary."""
    reasons: Counter[str] = Counter()
    mask_reasons: Counter[str] = Counter()

    def counted(failures: Iterator[Failure], reasons: Counter[str]) -> Iterator[Failure]:
        for one in failures:
            reasons[one["reason"]] += 1
            yield one

    of_images = counted(_failures(work, frozen), reasons)
    of_masks = counted(_mask_failures(work), mask_reasons)
    rows = chain(of_images, of_masks, frozen["stray_masks"])
    write_failures(work.out, rows, sorted_ascii=True)
    failed = reasons.total()
    shutil.rmtree(work.out / STAGING, ignore_errors=True)
    total = frozen["num_images"] + len(frozen["failures"])
    kept = total - failed
    if kept:
        content = Index.load(work.out).column("content")
        equal = len(content) - len(np.unique(content))
        if equal:
            print(f"shard: {equal} images have the same content as another one (kept)")
    if pages := sum(manifest.get("num_multiframe", 0) for manifest in _manifests(work)):
        print(f"shard: {pages:,} images have several pages or frames; the first one is used")
    for line in describe_skipped(frozen["skipped"]):
        print(f"shard: {line}")
    too_many_masks = _report_masks(config, work, frozen, mask_reasons)
    lost = {name: frozen[name] for name in ("num_lost", "lost_is_known")}
    too_many = over_limit(config.max_failure_rate, failed=failed, total=total, **lost)
    for line in describe_lost(**lost):
        print(f"shard: {line}")
    if failed:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        print(
            f"shard: {failed} of {total:,} images quarantined ({failed / total:.2%}, limit"
            f" {config.max_failure_rate:.2%}): {listed}; see {config.out / FILE_NAME}"
        )
    if not kept:
        raise DataError(f"{config.out}: not one of the {total} images could be used")
    print(f"shard: wrote {kept:,} images in {work.num_shards} shards to {config.out}")
    say_next(f"a2s stage1 --data {shlex.quote(str(config.out))} --out runs/s1")
    return 3 if too_many or too_many_masks else 0


def _report_masks(
    config: ShardConfig, work: PackingJob, frozen: dict[str, Any], reasons: Counter[str]
) -> bool:
    """Say what became of the masks; return whether too many could not be used.

    Raises:
        DataError: no mask could be used, or all are empty or full.
    """
    counts: Counter[str] = Counter()
    for manifest in _manifests(work):
        counts += manifest.get("masks", {})
    num_packed = sum(counts[name] for name in masks.MEANINGS)
    left_out = reasons.total()
    if config.masks:
        print(
            f"shard: {frozen['without_mask']} images without a mask,"
            f" {len(frozen['stray_masks'])} masks without an image"
        )
    if text := masks.describe(counts, what="masks"):
        print(f"shard: {text}")
    if counts["resized"]:
        share = f"at most {MASK_TOLERANCE:.0%} larger or smaller"
        print(f"shard: {counts['resized']:,} masks resized to their images, {share}")
    if left_out:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        share = f"{left_out / (num_packed + left_out):.2%}, limit {config.max_failure_rate:.2%}"
        print(
            f"shard: {left_out:,} of {num_packed + left_out:,} masks left out ({share}), their "
            f"images are packed without them: {listed}; see {config.out / FILE_NAME}"
        )
    why = masks.useless(num_masks=num_packed, num_empty=counts["empty"], num_full=counts["full"])
    if left_out and not num_packed:
        why = f"not one of the {left_out:,} masks could be used; see {config.out / FILE_NAME}"
    if why:
        raise DataError(f"shard: {config.masks or 'the masks in the tars'}: {why}")
    return left_out > config.max_failure_rate * (num_packed + left_out)


def _refuse_added(config: ShardConfig, work: PackingJob, frozen: dict[str, Any]) -> None:
    """Say which images or masks are not in these shards, because they came after the first call.

    They cannot be packed here: labels and models of these shards are bound to their content.
    """
    if changed := resized(frozen.get("tars", ())):
        raise DataError(
            f"shard: {changed[0]} has another size than when {config.out} was begun, and what was "
            "added to it is not there; pack it into a new --out"
        )
    added = added_since(
        work.out / work_list.IMAGES,
        frozen["failures"],
        config.images,
        masks=config.masks,
        mask_pattern=config.mask_pattern,
        out=work.out,
    )
    if added.num_masks:
        raise DataError(
            f"shard: {added.num_masks:,} images of {config.out} had no mask when they were packed, "
            "and have one now; pack all of them into a new --out"
        )
    if added.images:
        file = work.out / ADDED
        lines = "".join(f"{path}\n" for path in added.images)
        atomic_write(file, lines.encode("utf-8", "surrogateescape"))
        raise DataError(
            f"shard: {len(added.images):,} images were added after {config.out} was begun, such as "
            f"{printable(added.images[0])}, and are not in it. To learn from all, use a new --out "
            "(of a2s run, too); to label or predict only the new ones with a model that is there: "
            f"a2s shard {shlex.quote(str(file))} --out NEW"
        )


def _manifests(work: PackingJob) -> Iterator[dict[str, Any]]:
    for number in range(work.num_shards):
        yield read_json(work.out / f"{shard_name(number)}.json")


def _failures(work: PackingJob, frozen: dict[str, Any]) -> Iterator[Failure]:
    yield from frozen["failures"]
    for manifest in _manifests(work):
        yield from manifest["failures"]


def _mask_failures(work: PackingJob) -> Iterator[Failure]:
    for manifest in _manifests(work):
        yield from manifest.get("mask_failures", [])
