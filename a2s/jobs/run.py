"""The whole job on one machine: a list of (command, settings), each of which resumes by itself.

    a2s run photos/ --out runs/mine
    a2s run train/ --out runs/scored --test test/images --truth test/masks

OUT/ data  stage1  labels  stage2  preds  sheet.png, and where masks are known also
     test-data  test-maps  test-labels  scores/{maps,labels,detector}  table.md
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from a2s.config import RunConfig
from a2s.distributed import cpu_asked_for
from a2s.errors import ConfigError
from a2s.pool import num_cpus
from a2s.rundir import atomic_write, claim, read_json
from a2s.settings import MODELS
from a2s.train_options import TrainOptions

STDERR = 2
TRAINING = ("stage1", "stage2")
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


@dataclass(frozen=True)
class Job:
    """One entry of a job list: a command and the settings that differ from its defaults."""

    command: str
    settings: dict[str, Any]

    @property
    def out(self) -> Path:
        """Where the job writes."""
        return Path(self.settings["out"])


def run(config: RunConfig) -> int:
    """Run every command in order; the same call again continues where it stopped.

    Raises:
        ConfigError: as the single commands do, and for a batch size that the ranks cannot share.
    """
    processes = resolve_processes(config)
    out = config.out
    with claim(out, command="run", config=config) as folder:
        if _is_untrained(config):
            _say(f"{_UNTRAINED} {_HOW_TO_TRAIN}")
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
    shard, label = _chosen(config.shard), _chosen(config.label)
    stage1 = {**_chosen(config.stage1), **seed}
    stage2 = {**_chosen(config.stage2), **seed}
    predict = _chosen(config.predict)
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
        detector_job = {**data, "out": out / "stage2", **stage2}
        if config.stage2.rectify == "hma":
            averaging = {**data, "out": out / "stage2", "workers": config.workers}
            for epoch in range(config.stage2.warm_epochs + 1, config.stage2.epochs + 1):
                yield Job("stage2", {**detector_job, "until_epoch": epoch})
                yield Job("hma", averaging)
        yield Job("stage2", detector_job)
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


def run_jobs(jobs: list[Job], *, processes: int = 1, log: Callable[..., None] | None = None) -> int:
    """Call the jobs in order; stop at the first one that does not return 0 and return its code."""
    for number, job in enumerate(jobs, start=1):
        _say(f"run: [{number}/{len(jobs)}] {job.command} -> {job.out}")
        start = time.monotonic()
        config = MODELS[job.command](**job.settings)
        if job.command in TRAINING and processes > 1:
            code = _launch(job, processes)
        else:
            # Standard output is for this command's own table; each job's last lines are progress.
            with contextlib.redirect_stdout(sys.stderr):
                code = int(importlib.import_module(f"a2s.jobs.{job.command}").run(config))
        elapsed_sec = round(time.monotonic() - start, 3)
        if log is not None:
            log(job=job.command, out=str(job.out), exit_code=code, elapsed_sec=elapsed_sec)
        if code:
            _say(
                f"run: stopped after {job.command} (exit code {code}); the same command continues "
                "with it"
            )
            return code
    return 0


def resolve_processes(config: RunConfig) -> int:
    """Training processes: as asked for, else one per GPU, else one.

    Raises:
        ConfigError: more processes than GPUs, or a batch size that they cannot share equally.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    on_cpu = cpu_asked_for(os.environ) or num_gpus == 0
    processes = config.processes or (1 if on_cpu else num_gpus)
    if not on_cpu and processes > num_gpus:
        raise ConfigError(
            f"run: --processes {processes} but this machine has {num_gpus} GPU(s); give at most "
            f"{num_gpus}, or set ACCELERATE_USE_CPU=true to train on the CPU"
        )
    sections: dict[str, TrainOptions] = {"stage1": config.stage1, "stage2": config.stage2}
    for name, section in sections.items():
        if section.until_epoch is not None:
            raise ConfigError(
                f"run: {name}.until_epoch is for a2s {name} alone; what comes next wants all of it"
            )
        if section.batch_size % processes:
            raise ConfigError(
                f"run: {name}.batch_size {section.batch_size} is not divisible by the "
                f"{processes} training processes; change one of them (--processes)"
            )
    return processes


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
    return "\n".join(lines) + "\n"


def _chosen(options: Any) -> dict[str, Any]:
    return {name: getattr(options, name) for name in type(options).model_fields}


def _is_untrained(config: RunConfig) -> bool:
    return "none" in (config.stage1.encoder.weights, config.stage2.encoder.weights)


def _launch(job: Job, processes: int) -> int:
    """Start a training stage as several ranks and wait for them."""
    import torch

    file = job.out.parent / f"{job.command}.launch.yaml"
    settings = MODELS[job.command](**job.settings).model_dump(mode="json")
    atomic_write(file, yaml.safe_dump({job.command: settings}, sort_keys=False))
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
    environment.setdefault("OMP_NUM_THREADS", str(max(1, num_cpus() // processes)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes)]
    command += ["-m", "a2s", job.command, "--config", str(file)]
    child = subprocess.Popen(command, env=environment, stdout=STDERR)
    try:
        code = child.wait()
    except BaseException:
        # Ctrl-C and SIGTERM: the ranks commit or drop what they do before this process ends.
        child.terminate()
        child.wait()
        raise
    # The launcher reports any failure of a rank as 1; the rank itself has said what it was.
    return code if code >= 0 else 128 - code


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


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
