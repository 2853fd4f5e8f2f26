"""`a2s run`: the whole pipeline on one machine, a list of commands that each resume by themselves.

    a2s run photos/ --out runs/mine
    a2s run train/ --out runs/scored --test test/images --truth test/masks

OUT/ data  stage1  labels  stage2  preds  sheet.png, and where masks are known also
     test-data  test-maps  test-labels  scores/{maps,labels,detector}  table.md
"""

from __future__ import annotations

from pathlib import Path

from a2s.config.commands import RunConfig
from a2s.parallel.progress import say
from a2s.pipeline import job_list, run_jobs, training_processes
from a2s.storage.files import atomic_write, read_json
from a2s.storage.run_folder import claim

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
    """Run every command in order; the same call continues where it stopped.

    Raises:
        ConfigError: a command refuses its settings, or the ranks cannot share a batch size.
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
    from a2s.evaluation.pictures.contact_sheet import write_sheet

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
