"""Pseudo labels for every image of a data folder: activation, sign, CRF, median (Eqn 5, 6).

A chunk of one shard is the unit of work. A model (one per GPU, or niced processes on the CPU) makes
its activation maps; a task refines them at the images' own size. When all chunks of a shard are
in, the label shard is written, its manifest last. Shapes: B images, S the network's input size.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open

from a2s import checkpoint, pool
from a2s.config import LabelConfig, RefineConfig
from a2s.data.tars import Index, ShardWriter, shard_done
from a2s.errors import CheckpointError
from a2s.labelling import Failure, Labelled, chunks, load_activation, refine_chunk
from a2s.progress import Progress
from a2s.refine import CrfParams, Recipe, crf_of, energy_of
from a2s.rundir import RunDir, atomic_write, claim, sha256_file

COLUMNS = {
    "width": "int32",
    "height": "int32",
    "area_share": "float",
    "border_contact": "float",
    "decision_margin": "float",
    "sign_margin": "float",
    "crf_agreement": "float",
    "num_components": "int32",
    "inverted": "bool",
}


@dataclass
class Totals:
    """What this run did; shards finished earlier are not in it."""

    num_images: int = 0
    activation_sec: float = 0.0
    refine_sec: float = 0.0
    wall_sec: float = 0.0
    tally: pool.Tally = field(default_factory=pool.Tally)


def run(config: LabelConfig) -> int:
    """Label all shards that have no finished label shard yet; 3 when too many images failed.

    Raises:
        CheckpointError: the model is missing, or is not a stage-1 model.
        DataError: the data folder is missing or unfinished.
        ConfigError: the output folder is in use or was made with other settings.
    """
    index = Index.load(config.data.resolve())
    model = checkpoint.resolve_model(config.model).resolve()
    image_size = _image_size(model)
    inputs = {"model_sha256": sha256_file(model), "data": index.fingerprint}
    with claim(config.out, command="label", config=config, inputs=inputs) as folder:
        todo = [
            number
            for number, shard in enumerate(index.shards)
            if shard_done(folder.path, shard.name, settings=folder.settings_hash) is None
        ]
        if todo:
            build = functools.partial(load_activation, model, image_size)
            _label_shards(config, folder, index, todo=todo, before=pool.Before(build))
        return _conclude(config, folder, index, num_new=len(todo))


def _recipe(settings: RefineConfig) -> Recipe:
    return Recipe(
        energy=energy_of(settings.crf_input),
        crf=crf_of("pydensecrf"),
        params=CrfParams(iterations=settings.iterations),
        median=settings.median,
        max_side=settings.max_side,
    )


def _image_size(model: Path) -> int:
    """Input size of a stage-1 model, from its header alone (no torch)."""
    try:
        with safe_open(model, framework="np") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"label: {model} cannot be read as safetensors: {error}") from None
    if metadata.get("kind") != "activation":
        kind = metadata.get("kind", "unknown")
        raise CheckpointError(
            f"label: {model} is of kind {kind}; labels come from a stage-1 model (a2s stage1)"
        )
    return int(metadata["image_size"])


def _label_shards(
    config: LabelConfig, folder: RunDir, index: Index, *, todo: list[int], before: pool.Before
) -> None:
    num_images = sum(index.shards[number].count for number in todo)
    workers = pool.resolve_workers(config.workers, num_images)
    totals = Totals(num_images=num_images)
    started = time.monotonic()
    with Progress(len(index), unit="images", name="label", done=len(index) - num_images) as bar:
        bar.note(f"{num_images:,} images in {len(todo)} shards, {workers} workers (0: no Ray)")
        results = pool.map_shards(
            refine_chunk,
            chunks(index, todo=todo, size=config.batch_size),
            workers=workers,
            common=(_recipe(config.refine),),
            before=before,
            ray_address=config.ray_address,
            note=bar.note,
            tally=totals.tally,
        )
        for number in todo:
            # All images of a shard may have been quarantined when it was packed.
            if index.shards[number].count == 0:
                _write_shard(folder, index, number, [])
        # Chunks come in any order; a shard is held until its last one is in.
        pending: dict[int, dict[int, Labelled]] = {}
        with closing(results):
            for result in results:
                arrived = pending.setdefault(result.shard, {})
                arrived[result.number] = result
                totals.activation_sec += result.activation_sec
                totals.refine_sec += result.refine_sec
                if len(arrived) == -(-index.shards[result.shard].count // config.batch_size):
                    in_order = [part for _, part in sorted(pending.pop(result.shard).items())]
                    _write_shard(folder, index, result.shard, in_order)
                bar.update(len(result.labels) + len(result.failures))
    assert not pending, sorted(pending)
    totals.wall_sec = time.monotonic() - started
    _report(totals, workers=workers, folder=folder)


def _write_shard(folder: RunDir, index: Index, number: int, in_order: list[Labelled]) -> None:
    """Write one label shard from its chunks, in the order of the data shard."""
    shard = index.shards[number]
    num_shards = len(index.shards)
    with ShardWriter(
        folder.path,
        shard.name,
        columns=COLUMNS,
        settings=folder.settings_hash,
        num_shards=num_shards,
    ) as writer:
        for key, label in ((key, label) for part in in_order for key, label in part.labels.items()):
            row = dataclasses.asdict(label.quality)
            writer.add(key, {"png": label.png}, width=label.width, height=label.height, **row)
        everything = [label for part in in_order for label in part.labels.values()]
        writer.extra["data_sha256"] = shard.sha256
        writer.extra["num_empty"] = sum(label.quality.area_share == 0 for label in everything)
        writer.extra["failures"] = [failure for part in in_order for failure in part.failures]


def _report(totals: Totals, *, workers: int, folder: RunDir) -> None:
    """Say how fast each side was and which one waited for the other."""
    models, tasks = (totals.tally.num_before, workers) if workers else (1, 1)
    activation_busy = totals.activation_sec / (totals.wall_sec * models)
    refine_busy = totals.refine_sec / (totals.wall_sec * tasks)
    activation_rate = totals.num_images / max(totals.activation_sec, 1e-9)
    refine_rate = totals.num_images / max(totals.refine_sec, 1e-9)
    if not workers:
        waits = "one process does both in turn"
    elif activation_busy > refine_busy:
        waits = "refinement waits for activation"
    else:
        waits = "activation waits for refinement"
    print(
        f"label: {totals.num_images:,} images in {totals.wall_sec:.1f} s, "
        f"{totals.num_images / totals.wall_sec:.2f} images/s; per process: activation "
        f"{activation_rate:.1f} images/s (x{models}, busy {activation_busy:.0%}), refinement "
        f"{refine_rate:.2f} images/s (x{tasks}, busy {refine_busy:.0%}): {waits}"
    )
    folder.log(
        event="labelled",
        num_images=totals.num_images,
        workers=workers,
        wall_sec=round(totals.wall_sec, 3),
        activation_images_per_sec=round(activation_rate, 3),
        refine_images_per_sec=round(refine_rate, 3),
        activation_busy=round(activation_busy, 4),
        refine_busy=round(refine_busy, 4),
        workers_crashed=totals.tally.crashed,
        tasks_timed_out=totals.tally.timed_out,
    )


def _conclude(config: LabelConfig, folder: RunDir, index: Index, *, num_new: int) -> int:
    """Sum up the manifests, list the failures, name the next command."""
    failures: list[Failure] = []
    num_labels = num_empty = 0
    for shard in index.shards:
        manifest = shard_done(folder.path, shard.name, settings=folder.settings_hash)
        assert manifest is not None, shard.name
        num_labels += manifest["count"]
        num_empty += manifest["num_empty"]
        failures += manifest["failures"]
    lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures]
    atomic_write(folder.path / "failures.jsonl", "".join(lines))
    state = "" if num_new else "already done: "
    print(
        f"label: {state}{folder.path} holds {num_labels:,} labels in {len(index.shards)} shards; "
        f"{num_empty:,} of them without a salient pixel, {len(failures):,} images failed"
    )
    if len(failures) > config.max_failure_rate * len(index):
        print(
            f"label: {len(failures):,} of {len(index):,} images failed, over the limit of "
            f"{config.max_failure_rate:.2%}: {folder.path / 'failures.jsonl'}"
        )
        return 3
    print(f"next: a2s stage2 --data {config.data} --labels {config.out} --out runs/s2")
    return 0
