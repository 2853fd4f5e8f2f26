"""The pipeline as a list of jobs (shard, stage1, label, stage2, predict, evaluate), and its runner.

`a2s run` and `a2s ablate` call the other commands through it. Every job resumes by itself, so a
list needs no state. With more than one process, training jobs start as ranks.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from a2s.config.parse import problems
from a2s.config.registry import COMMANDS
from a2s.config.run import RunConfig
from a2s.config.training import TrainOptions
from a2s.errors import ConfigError
from a2s.parallel.launch import cpu_requested
from a2s.parallel.progress import as_step, say
from a2s.storage.files import atomic_write
from a2s.storage.hashing import digest
from a2s.storage.machine import share_threads

STDERR = 2
TRAINING = ("stage1", "stage2")


@dataclass(frozen=True)
class Job:
    """One entry of a job list: a command and the settings that differ from its defaults."""

    command: str
    settings: dict[str, Any]

    @property
    def out(self) -> Path:
        """Where the job writes."""
        return Path(self.settings["out"])

    def parsed(self) -> Any:
        """The settings of the command, checked.

        Raises:
            ConfigError: the command refuses them.
        """
        try:
            return COMMANDS[self.command].settings_class()(**self.settings)
        except ValidationError as error:
            raise ConfigError(problems(error, self.command, None)) from None

    @property
    def key(self) -> str:
        """Short hash of command and settings: tells jobs with the same folder apart."""
        return digest([self.command, {k: v for k, v in self.settings.items() if k != "out"}])[:12]


def chosen(section: BaseModel) -> dict[str, Any]:
    """Settings of a section as those of a job."""
    return {name: getattr(section, name) for name in type(section).model_fields}


def stage2_jobs(job: Job, *, workers: int | str) -> list[Job]:
    """Stage 2 as one job, or with `rectify: hma` as jobs that alternate with `a2s hma`.

    Finished jobs return at once, so an interrupted list restarts from its beginning.
    """
    if job.settings.get("rectify") != "hma":
        return [job]
    paths = {name: job.settings[name] for name in ("out", "data", "labels")}
    hma = Job("hma", {**paths, "workers": workers})
    turns = []
    for epoch in range(job.settings["warm_epochs"] + 1, job.settings["epochs"] + 1):
        turns += [Job("stage2", {**job.settings, "until_epoch": epoch}), hma]
    return [*turns, job]


def run_jobs(
    jobs: Sequence[Job],
    *,
    name: str = "run",
    processes: int = 1,
    log: Callable[..., None] | None = None,
) -> int:
    """Call the jobs in order; stop at the first one that does not return 0 and return its code.

    `name` is the calling command, for messages. `log` gets a record when a job begins and when it
    ends; after an interruption its exit code is null.
    """
    times: Counter[str] = Counter()
    for number, job in enumerate(jobs, start=1):
        say(f"{name}: [{number}/{len(jobs)}] {job.command} -> {job.out}")
        command = COMMANDS[job.command]
        config = job.parsed()
        # A list may hold a job twice, with another one between them that changes its input.
        times[key := f"{job.out} {job.key}"] += 1
        fields = {"job": job.command, "out": str(job.out), "key": f"{job.key}-{times[key]}"}
        if log is not None:
            log(event="begins", **fields)
        start = time.monotonic()
        code: int | None = None
        try:
            with as_step():
                if job.command in TRAINING and processes > 1:
                    code = _launch(job, processes)
                else:
                    # Standard output is for the caller's own table.
                    with contextlib.redirect_stdout(sys.stderr):
                        module = importlib.import_module(f"a2s.commands.{command.module}")
                        code = int(module.run(config))
        finally:
            if log is not None:
                log(**fields, exit_code=code, elapsed_sec=round(time.monotonic() - start, 3))
        if code:
            say(
                f"{name}: stopped after {job.command} (exit code {code}); the same command "
                "continues with it"
            )
            return code
    return 0


def training_processes(name: str, asked: int, sections: Mapping[str, TrainOptions]) -> int:
    """Number of training processes: as `asked`, or for 0 one per GPU, else one.

    `name` is the calling command, `sections` are its settings of the training commands.

    Raises:
        ConfigError: more processes than GPUs, or a batch size that they cannot share equally.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    on_cpu = cpu_requested(os.environ) or num_gpus == 0
    processes = asked or (1 if on_cpu else num_gpus)
    if not on_cpu and processes > num_gpus:
        raise ConfigError(
            f"{name}: --processes {processes} but this machine has {num_gpus} GPU(s); give at most "
            f"{num_gpus}, or set ACCELERATE_USE_CPU=true to train on the CPU"
        )
    for stage, section in sections.items():
        if section.until_epoch is not None:
            raise ConfigError(
                f"{name}: {stage}.until_epoch works with a2s {stage} alone; the next step needs "
                "the finished stage"
            )
        if section.compile and processes > 1:
            raise ConfigError(
                f"{name}: {stage}.compile works with one process; give --processes 1, or leave it "
                "out"
            )
        if section.batch_size % processes:
            raise ConfigError(
                f"{name}: {stage}.batch_size {section.batch_size} is not divisible by the "
                f"{processes} training processes; change one of them (--processes)"
            )
    return processes


def _launch(job: Job, processes: int) -> int:
    """Start a training stage as several ranks and wait for them."""
    import torch

    file = job.out.parent / f"{job.command}.launch.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = COMMANDS[job.command].settings_class()(**job.settings).model_dump(mode="json")
    atomic_write(file, yaml.safe_dump({job.command: settings}, sort_keys=False))
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "true"
    share_threads(environment, processes)
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
    maps = {name: predict[name] for name in ("max_pixels", "batch_size")}

    def jobs() -> Iterator[Job]:
        yield Job("shard", {"images": config.images, "out": out / "data", **shard, **pooled})
        if config.test is not None:
            sources = {"images": (str(config.test),), "out": test_data}
            yield Job("shard", {**sources, **shard, **pooled})
        bundled = config.init == "bundled"
        if config.seeds != "none" and not bundled:
            seeds = {"model": "rbd", "data": out / "data", "out": out / "seeds"}
            yield Job("label", {**seeds, **label, **pooled})
            stage1.update(labels=out / "seeds", **failures)
        if bundled:
            # It brings its encoder; one that was named without weights is none (`RunConfig.init`).
            stage2.pop("encoder", None)
            stage2["init"] = "bundled"
        else:
            yield Job("stage1", {"data": out / "data", "out": out / "stage1", **stage1})
        made_by = {"model": "bundled" if bundled else out / "stage1", **label, **pooled}
        yield Job("label", {"data": out / "data", "out": out / "labels", **made_by})
        data = {"data": out / "data", "labels": out / "labels"}
        training = Job("stage2", {**data, "out": out / "stage2", **stage2, **failures})
        yield from stage2_jobs(training, workers=config.workers)
        test_images = {"images": (str(test_data),)}
        detector = {"model": out / "stage2", **predict, **pooled}
        yield Job("predict", {**test_images, "out": out / "preds", **detector})
        if config.truth is None:
            return
        network = "bundled-activation" if bundled else out / "stage1"
        activation = {"model": network, **maps, **pooled}
        yield Job("predict", {**test_images, "out": out / "test-maps", **activation})
        scored = {"maps": out / "test-maps", "labels": out / "labels", "detector": out / "preds"}
        for name in ("rbd", "bundled"):
            scored[name] = out / f"test-{name}"
            ready_made = {"model": name, **maps, **pooled}
            yield Job("predict", {**test_images, "out": scored[name], **ready_made})
        if config.test is not None:
            scored["labels"] = out / "test-labels"
            yield Job("label", {"data": test_data, "out": out / "test-labels", **made_by})
        for name, pred in scored.items():
            pair = {"pred": pred, "truth": config.truth, "out": out / "scores" / name}
            masks = {"mask_pattern": config.mask_pattern}
            yield Job("evaluate", {**pair, **masks, **pooled})

    return list(jobs())
