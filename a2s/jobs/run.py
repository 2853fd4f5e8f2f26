"""The whole job on one machine: a list of (command, settings), each of which resumes by itself.

    a2s run photos/ --out runs/mine
    a2s run train/ --out runs/scored --test test/images --truth test/masks

OUT/ data  stage1  labels  stage2  preds  sheet.png, and where masks are known also
     test-data  test-maps  test-labels  scores/{maps,labels,detector}  table.md
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from a2s.config import RunConfig
from a2s.joblist import Job, chosen, run_jobs, say, stage2_jobs, training_processes
from a2s.rundir import atomic_write, claim, read_json

SCORED = {
    "maps": "activation maps (stage 1)",
    "labels": "pseudo labels (CRF, median)",
    "detector": "detector (stage 2)",
}
COLUMNS = {
    "adaptive_f": "adaptive F",
    "mean_f": "mean F",
    "max_f": "max F",
    "weighted_f": "weighted F",
    "s_measure": "S",
    "mae": "MAE",
}


def run(config: RunConfig) -> int:
    """Run every command in order; the same call again continues where it stopped.

    Raises:
        ConfigError: as the single commands do, and for a batch size that the ranks cannot share.
    """
    sections = {"stage1": config.stage1, "stage2": config.stage2}
    processes = training_processes("run", config.processes, sections)
    out = config.out
    with claim(out, command="run", config=config) as folder:
        if _is_untrained(config):
            say(f"{_UNTRAINED} {_HOW_TO_TRAIN}")
        code = run_jobs(job_list(config), processes=processes, log=folder.log)
        if code:
            return code
        if config.truth is not None:
            table = score_table(out / "scores")
            atomic_write(out / "table.md", table)
            print(table)
        _write_sheet(config)
    if _is_untrained(config):
        print(_UNTRAINED)
    print(f"run: pictures {out}/sheet.png, masks {out}/preds, detector {out}/stage2")
    print(f"next: a2s predict PHOTOS --model {out}/stage2 --out OUT --cutout")
    return 0


_UNTRAINED = (
    "run: the encoder is UNTRAINED (no pretrained weights were given), so this shows that the "
    "machinery works, not what the method can do."
)
_HOW_TO_TRAIN = "Give --stage1.encoder.weights and --stage2.encoder.weights a file or a name."


def job_list(config: RunConfig) -> list[Job]:
    """The commands that make up a run, with their settings, in order."""
    out = config.out
    test_data = out / "data" if config.test is None else out / "test-data"
    failures = {"max_failure_rate": config.max_failure_rate}
    pooled = {"workers": config.workers, **failures}
    seed = {} if config.seed is None else {"seed": config.seed}
    shard, label = chosen(config.shard), chosen(config.label)
    stage1 = {**chosen(config.stage1), **seed}
    stage2 = {**chosen(config.stage2), **seed}
    predict = chosen(config.predict)
    # Raw activation maps are for scoring; cut-outs and overlays are made of the detector's masks.
    maps = {**predict, "cutout": False, "overlay": False}

    def jobs() -> Iterator[Job]:
        yield Job("shard", {"images": config.images, "out": out / "data", **shard, **pooled})
        if config.test is not None:
            sources = {"images": (str(config.test),), "out": test_data}
            yield Job("shard", {**sources, **shard, **pooled})
        yield Job("stage1", {"data": out / "data", "out": out / "stage1", **stage1})
        made_by = {"model": out / "stage1", **label, **pooled}
        yield Job("label", {"data": out / "data", "out": out / "labels", **made_by})
        data = {"data": out / "data", "labels": out / "labels"}
        training = Job("stage2", {**data, "out": out / "stage2", **stage2})
        yield from stage2_jobs(training, workers=config.workers)
        test_images = {"images": (str(test_data),)}
        detector = {"model": out / "stage2", **predict, **pooled}
        yield Job("predict", {**test_images, "out": out / "preds", **detector})
        if config.truth is None:
            return
        activation = {"model": out / "stage1", **maps, **pooled}
        yield Job("predict", {**test_images, "out": out / "test-maps", **activation})
        scored = {"maps": out / "test-maps", "labels": out / "labels", "detector": out / "preds"}
        if config.test is not None:
            scored["labels"] = out / "test-labels"
            yield Job("label", {"data": test_data, "out": out / "test-labels", **made_by})
        for name, pred in scored.items():
            pair = {"pred": pred, "truth": config.truth, "out": out / "scores" / name}
            yield Job("evaluate", {**pair, **pooled})

    return list(jobs())


def score_table(scores: Path) -> str:
    """A Markdown table of the scores of every stage."""
    lines = [
        "| stage | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (1 + len(COLUMNS)) + "|",
    ]
    for name, title in SCORED.items():
        values = read_json(scores / name / "scores.json")
        cells = " | ".join(f"{values[column]:.3f}" for column in COLUMNS)
        lines.append(f"| {title} | {cells} |")
        which_f = values["which_f"]
    lines += ["", f"Which F: {which_f}."]
    return "\n".join(lines) + "\n"


def _is_untrained(config: RunConfig) -> bool:
    return "none" in (config.stage1.encoder.weights, config.stage2.encoder.weights)


def _write_sheet(config: RunConfig) -> None:
    from a2s.sheet import write_sheet

    out = config.out
    on_test = config.test is not None
    labels = out / ("test-labels" if on_test else "labels")
    write_sheet(
        out / "sheet.png",
        data=out / ("test-data" if on_test else "data"),
        maps=out / "test-maps" if config.truth is not None else None,
        labels=labels if config.truth is not None or not on_test else None,
        preds=out / "preds",
        truth=config.truth,
    )
