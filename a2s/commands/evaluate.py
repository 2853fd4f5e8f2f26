"""`a2s evaluate`: score predictions against ground truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from a2s.config.commands import EvaluateConfig
from a2s.errors import ConfigError, DataError
from a2s.evaluation import metrics
from a2s.evaluation.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from a2s.evaluation.chunk import SCHEMA, Pair, Part, score_chunk
from a2s.evaluation.dataset_scores import DatasetScores
from a2s.evaluation.pairs import PictureSet, find_predictions, find_truths, only
from a2s.parallel import pool
from a2s.parallel.progress import Progress
from a2s.storage import files, hashing, run_folder
from a2s.storage.failures import FILE_NAME, Failure, write_failures

CHUNK_PAIRS = 16
# Below this many pairs Ray's start takes longer than the scoring that it would share.
AUTO_MIN_PAIRS = 1000
COLUMNS = (
    ("adaptive F", "adaptive_f"),
    ("mean F", "mean_f"),
    ("max F", "max_f"),
    ("max F off.", "max_f_official"),
    ("weighted F", "weighted_f"),
    ("S", "s_measure"),
    ("E", "e_measure"),
    ("MAE", "mae"),
)
_NOTES = {
    "which_f": "adaptive F (threshold min(2*mean, 1) per image) is the paper's ave-F; mean F and"
    " max F are of the F curve averaged over images (256 thresholds, pysodmetrics), max F off. of"
    " the averaged precision and recall (the authors' code); beta^2 0.3, weighted F: 1",
    "which_e": "e_measure: mean over 256 thresholds; e_adaptive: adaptive threshold",
}

_CONVENTIONS = {"pysodmetrics": metrics.LIBRARY, "official": "the paper's authors' code"}


def run(config: EvaluateConfig) -> int:
    """Score all pairs; return 0, or 3 when too many predictions are missing or damaged."""
    truths, expected = _truths(config)
    predictions = find_predictions(config.pred, wanted=truths.keys)
    keys = sorted(truths.keys & predictions.keys)
    if not keys:
        raise DataError(
            f"evaluate: no prediction in {config.pred} has the name of a truth in {_where(config)}"
            f" (for example {min(predictions.keys)} and {min(truths.keys)})"
        )
    inputs = {"pred": str(config.pred.resolve()), "truth": str(_where(config).resolve())}
    with run_folder.claim(config.out, command="evaluate", config=config, inputs=inputs) as folder:
        files.remove_temporary(folder.path)
        fingerprint = hashing.digest([predictions.fingerprint, truths.fingerprint])
        scores = _finished(folder.path, fingerprint)
        if scores is None:
            scores = _score_all(config, folder, keys, predictions, truths)
            if expected is not None:
                scores |= {"benchmark": expected.name, "num_benchmark": expected.num_images}
            files.write_json(folder.path / "scores.json", {**scores, "inputs_sha256": fingerprint})
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
        return find_truths(_where(config)), None
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


def _finished(out: Path, fingerprint: str) -> dict[str, Any] | None:
    try:
        scores: dict[str, Any] = files.read_json(out / "scores.json")
    except (FileNotFoundError, ValueError):
        return None
    same_code = scores.get("metric_library_version") == metrics.LIBRARY_VERSION
    return scores if same_code and scores.get("inputs_sha256") == fingerprint else None


def _score_all(
    config: EvaluateConfig,
    folder: run_folder.RunDir,
    keys: list[str],
    predictions: PictureSet,
    truths: PictureSet,
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = time.monotonic()
    missing = _write_missing(folder.path, predictions, truths)
    # Old scores must not pass for those of a run that has not finished.
    (folder.path / "scores.json").unlink(missing_ok=True)
    small = config.workers == "auto" and len(keys) < AUTO_MIN_PAIRS
    workers = pool.resolve_workers(
        0 if small else config.workers, len(keys), ray_address=config.ray_address
    )

    def chunks() -> Iterator[tuple[int, list[Pair]]]:
        for first in range(0, len(keys), CHUNK_PAIRS):
            yield (
                first // CHUNK_PAIRS,
                [
                    Pair(key, predictions.locate(key), truths.locate(key))
                    for key in keys[first : first + CHUNK_PAIRS]
                ],
            )

    schema = pa.schema(SCHEMA)
    totals = DatasetScores()
    failures: list[Failure] = []
    num_resized = num_empty = num_graded = 0
    parts = pool.map_items(
        score_chunk,
        chunks(),
        common=(config.parity.convention,),
        workers=workers,
        ray_address=config.ray_address,
        name=lambda item: f"evaluate: pairs from {item[1][0].key}",
    )
    with (
        Progress(len(keys), unit="pairs", name="evaluate") as progress,
        files.atomic_path(folder.path / "images.parquet") as temporary,
        pq.ParquetWriter(temporary, schema) as table,
    ):
        for part in _in_order(parts):
            totals.merge(part.totals)
            failures += part.failures
            num_resized += sum(row["resized"] for row in part.rows)
            num_empty += sum(row["empty_truth"] for row in part.rows)
            num_graded += sum(row["graded_truth"] for row in part.rows)
            table.write_table(pa.Table.from_pylist(part.rows, schema=schema))
            progress.update(len(part.rows) + len(part.failures))
    write_failures(folder.path, failures)
    if not totals.num_images:
        raise DataError(
            f"evaluate: none of {len(keys)} pairs could be read; see {folder.path}/{FILE_NAME}"
        )
    _draw(folder.path, totals, title=f"{config.pred.name}, {totals.num_images:,} images")
    seconds = time.monotonic() - start
    folder.log(
        images=totals.num_images,
        workers=workers,
        seconds=round(seconds, 3),
        images_per_sec=round(totals.num_images / seconds, 2),
    )
    return {
        **totals.summary(),
        "num_images": totals.num_images,
        "num_truth": len(truths.keys),
        "num_resized": num_resized,
        "num_empty_truth": num_empty,
        "num_graded_truth": num_graded,
        "num_failed": len(failures),
        **missing,
        "convention": config.parity.convention,
        "metric_library": metrics.LIBRARY,
        "metric_library_version": metrics.LIBRARY_VERSION,
        **_NOTES,
    }


def _in_order(parts: Iterator[Part]) -> Iterator[Part]:
    """Yield parts in the order of their keys; they arrive as they finish."""
    waiting: dict[int, Part] = {}
    expected = 0
    for part in parts:
        waiting[part.number] = part
        while expected in waiting:
            yield waiting.pop(expected)
            expected += 1
    assert not waiting


def _write_missing(out: Path, predictions: PictureSet, truths: PictureSet) -> dict[str, int]:
    """Write and print the keys that have a truth without a prediction, or the reverse."""
    lists = {
        "missing_pred": sorted(truths.keys - predictions.keys),
        "missing_truth": sorted(predictions.keys - truths.keys),
    }
    files.write_json(out / "missing.json", {**lists, "truth_of_same_name_ignored": truths.shadowed})
    for name, text in (
        ("missing_pred", "truths without a prediction (not scored)"),
        ("missing_truth", "predictions without a truth (not scored)"),
    ):
        if lists[name]:
            shown = ", ".join(lists[name][:10]) + (", …" if len(lists[name]) > 10 else "")
            print(f"evaluate: {len(lists[name]):,} {text}: {shown}; all in {out}/missing.json")
    return {f"num_{name}": len(keys) for name, keys in lists.items()}


def _draw(out: Path, totals: DatasetScores, *, title: str) -> None:
    from a2s.evaluation import curves

    mean = totals.curves()
    adaptive_f = totals.summary()["adaptive_f"]
    files.atomic_write(
        out / "pr_curve.svg", curves.pr_curve(mean["precision"], mean["recall"], title=title)
    )
    files.atomic_write(
        out / "f_curve.svg", curves.f_curve(mean["f"], adaptive_f=adaptive_f, title=title)
    )


def _report(config: EvaluateConfig, scores: dict[str, Any]) -> int:
    lost = scores["num_missing_pred"] + scores["num_failed"]
    numbers = _CONVENTIONS[config.parity.convention]
    print(f"evaluate: {scores['num_images']:,} images, numbers of {numbers}")
    print("  ".join(f"{title:>10}" for title, _ in COLUMNS))
    print("  ".join(f"{scores[name]:>10.4f}" for _, name in COLUMNS))
    print(f"which F: {_NOTES['which_f']}")
    if scores["num_graded_truth"]:
        above = "128" if config.parity.convention == "pysodmetrics" else "half of their own range"
        print(
            f"{scores['num_graded_truth']:,} truths hold greys between 0 and 255; what is above"
            f" {above} counts as salient"
        )
    if scores["num_resized"]:
        print(f"{scores['num_resized']:,} predictions were resized to their truth's size")
    if scores["num_empty_truth"]:
        print(f"{scores['num_empty_truth']:,} truths have no salient pixel; their F counts as 0")
    print(f"written: {config.out}/scores.json, images.parquet, pr_curve.svg, f_curve.svg")
    if lost > config.max_failure_rate * scores["num_truth"]:
        print(
            f"evaluate: {lost:,} of {scores['num_truth']:,} truths have no readable prediction,"
            f" over --max-failure-rate {config.max_failure_rate:g}:"
            f" {config.out}/missing.json, {FILE_NAME}"
        )
        return 3
    return 0
