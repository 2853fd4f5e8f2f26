"""`a2s evaluate`: score predictions against ground truth."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from a2s.config.commands import EvaluateConfig
from a2s.data import masks
from a2s.data.isolated_decoder import expendable
from a2s.data.isolation import isolated
from a2s.data.origin import refuse_folders_of_other_images
from a2s.data.results import changed_files, note_files
from a2s.errors import ConfigError, DataError
from a2s.evaluation import metrics
from a2s.evaluation.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from a2s.evaluation.chunk import (
    SCHEMA,
    Pair,
    given_up,
    halves,
    in_order,
    merged,
    score_chunk,
)
from a2s.evaluation.curves import write_curves
from a2s.evaluation.dataset_scores import RowScores
from a2s.evaluation.pairs import (
    PictureFile,
    PictureSet,
    find_predictions,
    find_truths,
    only,
    spread,
    unpaired,
    write_missing,
)
from a2s.evaluation.report import NOTES, read_as, report_lines
from a2s.evaluation.score_files import FILES, read_scores
from a2s.evaluation.table import BORDER_COLUMNS
from a2s.parallel import pool
from a2s.parallel.progress import Progress
from a2s.pipeline import Job, run_jobs
from a2s.storage import files, hashing, run_folder, written
from a2s.storage.failures import FILE_NAME, Failure, write_failures

CHUNK_PAIRS = 16
# Below this many pairs the start of child processes takes longer than they save.
CHILDREN_MIN_PAIRS = 200
COLUMNS = (
    ("adaptive F", "adaptive_f"),
    *BORDER_COLUMNS,
    ("mean F", "mean_f"),
    ("max F", "max_f"),
    ("max F off.", "max_f_official"),
    ("weighted F", "weighted_f"),
    ("S", "s_measure"),
    ("E", "e_measure"),
    ("MAE", "mae"),
)
_COUNTED = ("resized", "empty_truth", "full_truth", "graded_truth")
"""Columns of images.parquet that are counted in scores.json."""


def run(config: EvaluateConfig) -> int:
    """Score all pairs; return 0, or 3 when too many predictions are missing or damaged."""
    truths, expected = _truths(config)
    predictions = find_predictions(config.pred, wanted=truths.keys)
    truths = spread(truths, predictions.keys)
    refuse_folders_of_other_images(config.pred, _where(config), command="evaluate")
    keys = sorted(truths.keys & predictions.keys)
    if not keys:
        why = unpaired(predictions.keys, truths, folder=_where(config))
        raise DataError(f"evaluate: no prediction in {config.pred} has the name of {why}")
    inputs = {"pred": str(config.pred.resolve()), "truth": str(_where(config).resolve())}
    if config.mask_pattern:
        inputs["mask_pattern"] = config.mask_pattern
    with run_folder.claim(config.out, command="evaluate", config=config, inputs=inputs) as folder:
        files.remove_temporary(folder.path)
        rbd = _rbd_maps(config, truths)
        sides = [predictions, truths, *([rbd] if rbd else [])]
        fingerprint = hashing.digest([side.fingerprint for side in sides])
        scores = _finished(folder.path, fingerprint)
        if scores is None:
            scores = _score_all(config, folder, keys, predictions, truths, rbd)
            if expected is not None:
                scores |= {"benchmark": expected.name, "num_benchmark": expected.num_images}
            files.write_json(folder.path / "scores.json", {**scores, "inputs_sha256": fingerprint})
            note_files(folder.path, FILES)
        else:
            print(f"evaluate: done already, nothing has changed since ({folder.path})")
        return _report(config, scores)


def _where(config: EvaluateConfig) -> Path:
    """The folder that was given for the truth."""
    if config.benchmark is not None:
        return config.benchmark[1]
    assert config.truth is not None
    return config.truth


def _truths(config: EvaluateConfig) -> tuple[PictureSet, Benchmark | None]:
    """Find the truth, and the benchmark if one was named.

    Raises:
        ConfigError: neither or both of --truth and --benchmark.
        DataError: as `find_benchmark` and `find_truths`.
    """
    if (config.truth is None) == (config.benchmark is None):
        raise ConfigError(
            "evaluate: give either --truth FOLDER or --benchmark NAME ROOT"
            f" (NAME one of {', '.join(BENCHMARKS)})"
        )
    if config.benchmark is None:
        return find_truths(_where(config), config.mask_pattern), None
    if config.mask_pattern is not None:
        raise ConfigError("evaluate: --mask-pattern goes with --truth; benchmarks need none")
    name, root = config.benchmark
    found = find_benchmark(name, root)
    truths = find_truths(found.masks)
    if found.keys is not None:
        truths = only(truths, found.keys)
    expected = BENCHMARKS[name]
    print(f"evaluate: {name}: {len(truths.keys):,} masks in {found.masks}")
    if len(truths.keys) != expected.num_images:
        print(f"evaluate: {name} has {expected.num_images:,} masks as published; this copy differs")
    return truths, expected


def _rbd_maps(config: EvaluateConfig, truths: PictureSet) -> PictureSet | None:
    """Compute the maps of RBD that are not there yet; None without --images.

    Images that RBD cannot use are listed in OUT/rbd/failures.jsonl; `_report` judges their number.

    Raises:
        ConfigError, DataError: as `a2s predict`, or no image has the name of a truth.
    """
    if not config.images:
        return None
    out = config.out / "rbd"
    pooled = {"workers": config.workers, "ray_address": config.ray_address, "max_failure_rate": 1.0}
    job = Job("predict", {"model": "rbd", "images": config.images, "out": out, **pooled})
    if code := run_jobs([job], name="evaluate"):
        raise DataError(f"evaluate: the maps of RBD could not be made (exit code {code})")
    maps = find_predictions(out, wanted=truths.keys)
    if not maps.keys & truths.keys:
        raise DataError(
            f"evaluate: no image in {' '.join(config.images)} has the name of a truth in "
            f"{_where(config)} (for example {min(maps.keys)} and {min(truths.keys)})"
        )
    return only(maps, truths.keys)


def _finished(out: Path, fingerprint: str) -> dict[str, Any] | None:
    try:
        scores = read_scores(out / "scores.json")
        is_whole = files.is_there(out / written.FILE_NAME) and not changed_files(out)
    except DataError:
        return None
    same_code = scores.get("metric_library_version") == metrics.LIBRARY_VERSION
    same_code &= {"centre_adaptive_f", "num_full_truth"} <= scores.keys()
    is_same = same_code and scores.get("inputs_sha256") == fingerprint
    return scores if is_same and is_whole else None


def _score_all(
    config: EvaluateConfig,
    folder: run_folder.RunDir,
    keys: list[str],
    predictions: PictureSet,
    truths: PictureSet,
    rbd: PictureSet | None,
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.monotonic()
    missing = write_missing(folder.path, keys, predictions, truths, rbd)
    # Old scores must not pass for those of a run that has not finished.
    for name in ("scores.json", written.FILE_NAME):
        (folder.path / name).unlink(missing_ok=True)
    # On one machine child processes are as fast as Ray's workers, and there at once.
    is_here = config.workers == "auto" and config.ray_address is None
    workers = pool.resolve_workers(
        0 if is_here else config.workers, len(keys), ray_address=config.ray_address
    )
    in_children = workers == 0 and len(keys) >= CHILDREN_MIN_PAIRS

    def rbd_map(key: str) -> PictureFile | None:
        return rbd.locate(key) if rbd and key in rbd.keys else None

    def chunks() -> Iterator[tuple[int, list[Pair]]]:
        for first in range(0, len(keys), CHUNK_PAIRS):
            yield (
                first // CHUNK_PAIRS,
                [
                    Pair(key, predictions.locate(key), truths.locate(key), rbd_map(key))
                    for key in keys[first : first + CHUNK_PAIRS]
                ],
            )

    schema = pa.schema(SCHEMA)
    totals = RowScores()
    failures: list[Failure] = []
    counts: Counter[str] = Counter()
    meanings: Counter[str] = Counter()
    parts = pool.map_items(
        score_chunk,
        chunks(),
        common=(config.parity.convention,),
        isolation=expendable if in_children else isolated,
        division=pool.Division(halves, merged, given_up),
        workers=workers,
        threads=pool.num_cpus() if workers == 0 else 0,
        children=pool.num_cpus() if in_children else 0,
        ray_address=config.ray_address,
        name=lambda item: f"evaluate: pairs from {item[1][0].key}",
    )
    with (
        Progress(len(keys), unit="pairs", name="evaluate") as progress,
        files.atomic_path(folder.path / "images.parquet") as temporary,
        pq.ParquetWriter(temporary, schema) as table,
    ):
        for part in in_order(parts):
            totals.merge(part.totals)
            failures += part.failures
            meanings += part.meanings
            for name in _COUNTED:
                counts[name] += sum(row[name] for row in part.rows)
            table.write_table(pa.Table.from_pylist(part.rows, schema=schema))
            progress.update(part.num_pairs)
    write_failures(folder.path, failures)
    num_images = totals.own.num_images
    if not num_images:
        raise DataError(
            f"evaluate: none of {len(keys)} pairs could be read; see {folder.path}/{FILE_NAME}"
        )
    num_empty, num_full = counts["empty_truth"], counts["full_truth"]
    if why := masks.useless(num_masks=num_images, num_empty=num_empty, num_full=num_full):
        # With nothing left in the folder, the corrected command may use it.
        for name in ("images.parquet", "missing.json", FILE_NAME):
            (folder.path / name).unlink()
        raise DataError(f"evaluate: {_where(config)}: {why}")
    write_curves(folder.path, totals.own, title=f"{config.pred.name}, {num_images:,} images")
    seconds = time.monotonic() - start
    folder.log(
        images=num_images,
        workers=workers,
        seconds=round(seconds, 3),
        images_per_sec=round(num_images / seconds, 2),
    )
    return {
        **totals.summary(),
        "num_truth": len(truths.keys),
        **{f"num_{name}": counts[name] for name in _COUNTED},
        **{read_as(name): meanings[name] for name in masks.MEANINGS},
        "num_failed": len(keys) - num_images,
        **missing,
        "convention": config.parity.convention,
        "metric_library": metrics.LIBRARY,
        "metric_library_version": metrics.LIBRARY_VERSION,
        **NOTES,
    }


def _report(config: EvaluateConfig, scores: dict[str, Any]) -> int:
    lines = report_lines(
        scores, COLUMNS, convention=config.parity.convention, with_rbd=bool(config.images)
    )
    print("\n".join(lines))
    print(f"written: {config.out}/scores.json, images.parquet, curves.json, *.svg")
    without_rbd = scores["num_images"] - scores.get("rbd_num_images", 0) if config.images else 0
    code = 0
    for lost, what, lists in (
        (
            scores["num_missing_pred"] + scores["num_failed"],
            "truths have no readable prediction",
            f"missing.json, {FILE_NAME}",
        ),
        (without_rbd, "scored images have no map of RBD", f"missing.json, rbd/{FILE_NAME}"),
    ):
        if lost > config.max_failure_rate * scores["num_truth"]:
            print(
                f"evaluate: {lost:,} of {scores['num_truth']:,} {what},"
                f" over --max-failure-rate {config.max_failure_rate:g}: {config.out}/{lists}"
            )
            code = 3
    return code
