"""`a2s run`: the whole pipeline on one machine, a list of commands that each resume by themselves.

    a2s run photos/ --out runs/mine
    a2s run train/ --out runs/scored --test test/images --truth test/masks

OUT/ data  seeds  stage1  labels  stage2  preds  sheet.png, and where masks are known also
     test-data  test-maps  test-rbd  test-bundled  test-labels  table.md
     scores/{maps,labels,detector,rbd,bundled}

With `--init bundled` there are no seeds and no stage 1.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from a2s.config.run import RunConfig
from a2s.config.training import Stage1Config, Stage2Config
from a2s.data import work_list
from a2s.data.file_tree import refuse_same
from a2s.data.index import Index
from a2s.data.inputs import collect
from a2s.data.tar_inputs import is_tar
from a2s.errors import ConfigError
from a2s.evaluation import verdict
from a2s.evaluation.score_files import read_scores
from a2s.evaluation.table import (
    RUN_COLUMNS,
    RUN_TITLES,
    baseline,
    border_note,
    markdown_lines,
)
from a2s.evaluation.truth_check import check_truths
from a2s.labels.crf.backends import crf_of
from a2s.parallel.progress import say
from a2s.parallel.ranks import check_trackers
from a2s.pipeline import Job, job_list, run_jobs, training_processes
from a2s.storage.files import atomic_write
from a2s.storage.remote import is_remote
from a2s.storage.run_folder import claim
from a2s.training.preflight import HOW_TO_TRAIN, UNTRAINED, check_encoders, is_untrained

BUNDLED = "labels by the activation network inside a2s, and its detector learns from them"


def run(config: RunConfig) -> int:
    """Run every command in order; the same call continues where it stopped.

    Raises:
        ConfigError: a command refuses its settings, or the ranks cannot share a batch size.
        WeightsError, DataError: what a later step needs is missing or cannot be right.
    """
    sections = {"stage1": config.stage1, "stage2": config.stage2}
    processes = training_processes("run", config.processes, sections)
    out, jobs = config.out, job_list(config)
    _check(config, jobs)
    with claim(out, command="run", config=config, latest=True) as folder:
        if _is_untrained(config):
            say(
                f"run: {UNTRAINED}. Give --stage1.encoder.weights and --stage2.encoder.weights "
                f"{HOW_TO_TRAIN}."
            )
        if config.init == "bundled":
            say(f"run: {BUNDLED}; --init none trains both stages from pretrained encoders")
        code = run_jobs(jobs, processes=processes, log=folder.log)
        if code:
            return code
        rows = None if config.truth is None else read_rows(out / "scores")
        judged = _judged(config, rows)
        folder.log(event="judged", lines=judged)
        if rows is not None:
            table = score_table(rows)
            judged_md = "".join(f"\n- {line}" for line in judged)
            atomic_write(out / "table.md", f"{table}{judged_md}\n")
            print(table)
        has_sheet = _write_sheet(config)
    if _is_untrained(config):
        print(f"run: {UNTRAINED}.")
    if not has_sheet:
        print("run: no picture is drawn, since no image has all of its maps and labels")
    pictures = f"pictures {out}/sheet.png, " if has_sheet else ""
    print(f"run: {pictures}masks {out}/preds, detector {out}/stage2")
    model = shlex.quote(f"{out}/stage2")
    print(f"next: a2s predict PHOTOS --model {model} --out OUT --cutout")
    print("\n".join(judged))
    return 0


def _check(config: RunConfig, jobs: Sequence[Job]) -> None:
    """Check before the first step what the later ones need.

    Raises: as `run`.
    """
    refuse_same(config.images, config.out)
    if config.mask_pattern is not None and config.truth is None:
        raise ConfigError("run: --mask-pattern needs --truth, the folder of the masks")
    settings = [job.parsed() for job in jobs]
    trainings = [one for one in settings if isinstance(one, Stage1Config | Stage2Config)]
    if trackers := {one.tracker for one in trainings} - {"none"}:
        check_trackers(tuple(sorted(trackers)))
    check_encoders(trainings)
    if config.label.refine.backend == "pydensecrf":
        crf_of("pydensecrf")
    if config.test is None and config.truth is None:
        # The first step lists its images at once.
        return
    keys = _test_keys(config)
    if config.truth is not None:
        check_truths(config.truth, config.mask_pattern, image_keys=keys)


def _test_keys(config: RunConfig) -> list[str] | None:
    """Keys of the test images; None: they are in tars, and to list them would take too long.

    Raises:
        ConfigError, DataError: as `collect`.
    """
    tests = config.images if config.test is None else (str(config.test),)
    data = config.out / ("data" if config.test is None else "test-data")
    if (data / work_list.WORK).exists():
        return work_list.keys(data)
    if any(is_remote(one) or is_tar(Path(one)) for one in tests):
        return None
    out = Path(os.path.abspath(data))
    keys: list[str] = collect(tests, masks=None, out=out).images["key"].to_pylist()
    return keys


def read_rows(scores: Path) -> dict[str, dict[str, Any]]:
    """Read the scores of every row; the Gaussian is scored with any other row."""
    rows = {
        name: read_scores(scores / name / "scores.json") for name in RUN_TITLES if name != "centre"
    }
    centre = baseline(rows["detector"], "centre")
    assert centre is not None, "evaluate always scores it"
    return {**rows, "centre": centre}


def score_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of the scores of every stage and baseline."""
    titled = {title: rows[name] for name, title in RUN_TITLES.items()}
    lines = markdown_lines(titled, RUN_COLUMNS, first="maps")
    which_f = rows["detector"]["which_f"]
    notes = [f"{border_note(rows['detector'])}.", "", f"Which F: {which_f}."]
    return "\n".join([*lines, "", *notes]) + "\n"


def _judged(config: RunConfig, rows: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """The verdict, and warnings where the numbers or the data call for one."""
    out = config.out
    found, expected_f = None, {}
    if rows is None:
        expected_f = {
            name: float(Index.load(out / folder).column("quality").mean())
            for name, folder in (("labels", "labels"), ("rbd", "seeds"))
            if (out / folder).exists()
        }
        from a2s.evaluation.agreement import sampled_agreement

        preds = out / "preds" if config.test is None else None
        found = sampled_agreement(data=out / "data", labels=out / "labels", preds=preds)
    num_images = len(Index.load(out / "data"))
    steps = {
        "stage 1": config.stage1.epochs * -(-num_images // config.stage1.batch_size),
        "stage 2": config.stage2.epochs * -(-num_images // config.stage2.batch_size),
    }
    # The bundled models have learned already.
    few = None if config.init == "bundled" else verdict.few_images(num_images, steps)
    flags = Index.load(out / "labels").column("no_object")
    empty = verdict.nothing_stands_out(len(flags), int(flags.sum()))
    warned = [*verdict.warnings(rows), *(text for text in (few, empty) if text)]
    return [
        f"verdict: {verdict.verdict(rows, found, expected_f)}",
        *(f"warning: {text}" for text in warned),
    ]


def _is_untrained(config: RunConfig) -> bool:
    if config.init == "bundled":
        return False
    return is_untrained(config.stage1) or is_untrained(config.stage2)


def _write_sheet(config: RunConfig) -> bool:
    from a2s.evaluation.pictures.contact_sheet import write_sheet

    out = config.out
    on_test = config.test is not None
    labels = out / ("test-labels" if on_test else "labels")
    return write_sheet(
        out / "sheet.png",
        data=out / ("test-data" if on_test else "data"),
        maps=out / "test-maps" if config.truth is not None else None,
        labels=labels if config.truth is not None or not on_test else None,
        preds=out / "preds",
        truth=config.truth,
        mask_pattern=config.mask_pattern,
    )
