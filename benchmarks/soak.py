"""Kill commands again and again, repeat them, and compare every file with a run without kills.

    python benchmarks/soak.py [--kills 200] [--jobs NAME...] [--seed 0] [--folder DIR] \
        --out benchmarks/results/soak.json

A job is a command on drawn scenes. It is started, killed at a random moment or just when one of its
files appears, and started again, until it has been killed often enough; then it runs to its end.
Files must equal those of the run that nobody killed, nothing temporary may be left, and after each
kill no process of the job may live on. Who is killed: the main process, its group, a Ray worker,
Ray's raylet; or the main process by SIGTERM or SIGINT. Exit codes: 0 nothing found, 1 otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MARK = "A2S_SOAK_ID"
"""Environment variable by which the processes of a job are found."""
LEFT_SEC = 40.0
"""After a kill, all processes of the job must have ended within this time."""
NOT_COMPARED = {
    "metrics.jsonl": "a log; lines of steps that are repeated come twice",
    "environment.json": "when and where",
    ".lock": "number of the process",
    ".lock-setup": "empty",
    ".lock-shards": "empty",
    "stopped.json": "is there after a kill only",
}
TEMPORARY = (".tmp", ".staging", ".partial")
MAIN, GROUP, TERM, INT, WORKER, RAYLET = "main", "group", "SIGTERM", "SIGINT", "worker", "raylet"


@dataclass(frozen=True)
class Job:
    """A command that writes `out`; `before` (names of jobs) must have run."""

    name: str
    arguments: tuple[str, ...]
    appears: tuple[str, ...]
    """Patterns of files; a kill when one of them appears hits between two writes."""
    before: tuple[str, ...] = ()
    ray: bool = False

    @property
    def victims(self) -> tuple[str, ...]:
        """Who can be killed."""
        return (MAIN, GROUP, TERM, INT, *((WORKER, RAYLET) if self.ray else ()))


_TRAIN = ("--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "4")
_STAGE2 = ("stage2", "--data", "data", "--labels", "labels", *_TRAIN, "--epochs", "3")
_OFTEN = ("--commit-every", "2", "--loader-workers", "1", "--log-every", "1")
_ANY = ("--max-failure-rate", "1")


def jobs() -> list[Job]:
    """All jobs, in the order in which they need each other."""

    def label(name: str, workers: str) -> Job:
        given = ("label", "--model", "stage1", "--data", "data", "--out", name, *_ANY)
        more = ("--workers", workers, "--batch-size", "2")
        patterns = ("shard-*.tar", "shard-*.parquet", "shard-*.json", "*.tmp")
        return Job(name, (*given, *more), patterns, ("data", "stage1"), workers != "0")

    def shard(name: str, workers: str) -> Job:
        given = ("shard", "scenes/train", "--out", name, "--shard-size", "5")
        patterns = ("shard-*.tar", "shard-*.parquet", "shard-*.json", "*.tmp")
        return Job(name, (*given, "--workers", workers), patterns, (), workers != "0")

    stage1 = ("stage1", "--data", "data", "--out", "stage1", *_TRAIN, "--epochs", "3", *_OFTEN)
    predict = ("predict", "scenes/test/images", "--model", "stage2", "--out", "preds", "--cutout")
    evaluate = ("evaluate", "--pred", "preds", "--truth", "scenes/test/masks", "--out", "scores")
    checkpoint = ("checkpoints/*", "checkpoints/*/*", "commits/*.json", "*.tmp")
    return [
        shard("data", "0"),
        shard("data-ray", "2"),
        Job("stage1", (*stage1, "--cache-gib", "0"), checkpoint, ("data",)),
        label("labels", "0"),
        label("labels-ray", "2"),
        Job(
            "stage2",
            (*_STAGE2, "--out", "stage2", "--warm-epochs", "1", *_OFTEN),
            ("labels/*/*.rows", *checkpoint, "rectified/shard-*.tar"),
            ("data", "labels"),
        ),
        Job("preds", (*predict, *_ANY, "--workers", "0"), ("*.png", "*.tmp"), ("stage2",)),
        Job("scores", (*evaluate, "--workers", "0"), ("*.json", "*.parquet"), ("preds",)),
    ]


@dataclass
class Findings:
    """What a soak has seen."""

    kills: Counter[str] = field(default_factory=Counter)
    """By victim."""
    moments: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    files: int = 0
    runs: int = 0


class Soak:
    """Kills jobs in a folder; `findings` by name of the job."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.findings: dict[str, Findings] = {}

    def prepare(self, needed: Sequence[Job]) -> dict[str, float]:
        """Draw scenes and run every job once in the folder `whole`; returns seconds by job."""
        whole = self.folder / "whole"
        (whole / "scenes").parent.mkdir(parents=True, exist_ok=True)
        draw = (
            "from pathlib import Path; from a2s.data.synthetic import render_folder;"
            "render_folder(Path('scenes'), num_train=24, num_test=6, side_px=96, seed=1)"
        )
        subprocess.run([sys.executable, "-c", draw], cwd=whole, check=True, capture_output=True)
        seconds = {}
        for job in needed:
            began = time.monotonic()
            code, said = self._finish(job, whole)
            if code:
                raise SystemExit(f"soak: {job.name} fails without any kill: {said}")
            seconds[job.name] = time.monotonic() - began
        return seconds

    def soak(self, job: Job, *, kills: int, usual_sec: float) -> None:
        """Kill a job so many times, let it end, and compare."""
        found = self.findings.setdefault(job.name, Findings())
        side = self.folder / f"killed-{job.name}"
        side.mkdir()
        for name in ("scenes", *job.before):
            (side / name).symlink_to(self.folder / "whole" / name)
        while found.kills.total() < kills:
            self._kill_once(job, side, found, usual_sec)
        code, said = self._finish(job, side)
        if code:
            found.problems.append(f"does not resume (exit code {code}): {said}")
        self._compare(job, side, found)
        shutil.rmtree(side)

    def _kill_once(self, job: Job, side: Path, found: Findings, usual_sec: float) -> None:
        victim = self.random.choice(job.victims)
        moment = self.random.choice(("random", *job.appears))
        process, mark = self._start(job, side)
        found.runs += 1
        present = set((side / job.name).glob(moment)) if moment != "random" else set()
        deadline = time.monotonic() + self.random.uniform(0, 1.2 * usual_sec)
        while process.poll() is None and time.monotonic() < deadline:
            if moment != "random" and set((side / job.name).glob(moment)) - present:
                break
            time.sleep(0.0005)
        killed = process.poll() is None and self._kill(process, victim, mark)
        errors = self._end(process, mark, side, found, victim if killed else "nobody")
        if killed:
            found.kills[victim] += 1
            found.moments[moment] += 1
        if process.returncode == 0:
            # It has ended, perhaps in spite of the kill: begin again.
            self._compare(job, side, found)
            shutil.rmtree(side / job.name)
        elif victim in (TERM, INT) and "Traceback" in errors:
            found.problems.append(f"a traceback after {victim}: {errors[-600:]}")

    def _start(self, job: Job, side: Path) -> tuple[subprocess.Popen[str], str]:
        mark = uuid.uuid4().hex
        environ = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        process = subprocess.Popen(
            [sys.executable, "-m", "a2s", *job.arguments],
            cwd=side,
            env=environ,
            stdout=subprocess.DEVNULL,
            # A file: a pipe would stay open while an orphan lives.
            stderr=(side / "errors.txt").open("w"),
            start_new_session=True,
            text=True,
        )
        return process, mark

    def _kill(self, process: subprocess.Popen[str], victim: str, mark: str) -> bool:
        """Kill; return whether there was somebody to kill."""
        if victim in (WORKER, RAYLET):
            word = b"ray::" if victim == WORKER else b"raylet/raylet"
            pids = [pid for pid, title in processes_with(mark).items() if word in title]
            for pid in pids[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return bool(pids)
        if victim == GROUP:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            by = {MAIN: signal.SIGKILL, TERM: signal.SIGTERM, INT: signal.SIGINT}
            process.send_signal(by[victim])
        return True

    def _end(
        self, process: subprocess.Popen[str], mark: str, side: Path, found: Findings, victim: str
    ) -> str:
        """Wait for the end of the job and of all that it has started; return its errors."""
        try:
            process.wait(timeout=300)
        except subprocess.TimeoutExpired:
            found.problems.append(f"hangs after the end of {victim}")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + LEFT_SEC
        while left := processes_with(mark):
            if time.monotonic() > deadline:
                titles = sorted({title[:60].decode(errors="replace") for title in left.values()})
                found.problems.append(f"processes live on after the end of {victim}: {titles}")
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        return (side / "errors.txt").read_text()

    def _finish(self, job: Job, side: Path) -> tuple[int, str]:
        process, mark = self._start(job, side)
        found = self.findings.setdefault(job.name, Findings())
        errors = self._end(process, mark, side, found, "nobody")
        return process.returncode, errors[-600:]

    def _compare(self, job: Job, side: Path, found: Findings) -> None:
        killed, whole = contents(side / job.name), contents(self.folder / "whole" / job.name)
        found.files += len(whole)
        for name in sorted(killed.keys() | whole.keys()):
            if killed.get(name) != whole.get(name):
                found.problems.append(f"{name} differs")
        left = [
            str(path.relative_to(side))
            for path in (side / job.name).rglob("*")
            if path.name.endswith(TEMPORARY)
        ]
        if left:
            found.problems.append(f"temporary files are left: {left[:5]}")


def with_those_before(chosen: Sequence[Job]) -> list[Job]:
    """Jobs and those that they need, in order."""
    names = {job.name for job in chosen}
    for job in reversed(jobs()):
        if job.name in names:
            names.update(job.before)
    return [job for job in jobs() if job.name in names]


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of the files that must be equal, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_COMPARED and not path.name.endswith(TEMPORARY)
    }


def processes_with(mark: str) -> dict[int, bytes]:
    """Command lines of the running processes that have inherited a mark."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if f"{MARK}={mark}".encode() not in (entry / "environ").read_bytes():
                continue
            if (entry / "stat").read_text().rsplit(") ", 1)[1][0] not in "ZX":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", nargs="+", choices=[job.name for job in jobs()])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty folder; default: a temporary one")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="a2s-soak-"))
    soak = Soak(folder, seed=args.seed)
    chosen = [job for job in jobs() if args.jobs is None or job.name in args.jobs]
    usual_sec = soak.prepare(with_those_before(chosen))
    per_job = -(-args.kills // len(chosen))
    for job in chosen:
        soak.soak(job, kills=per_job, usual_sec=usual_sec[job.name])
        found = soak.findings[job.name]
        print(job.name, dict(found.kills), found.problems or "no difference", flush=True)
        args.out.write_text(json.dumps(summary(soak, usual_sec), indent=1) + "\n")
    if args.folder is None:
        shutil.rmtree(folder)
    sys.exit(any(found.problems for found in soak.findings.values()))


def summary(soak: Soak, usual_sec: dict[str, float]) -> dict[str, Any]:
    """The result file."""
    from machine import describe_machine

    rows = {
        name: {
            "kills": found.kills.total(),
            "by_victim": dict(found.kills),
            "by_moment": dict(found.moments),
            "runs": found.runs,
            "files_compared": found.files,
            "seconds_without_kills": round(usual_sec[name], 1),
            "problems": found.problems,
        }
        for name, found in soak.findings.items()
        if found.runs
    }
    return {
        **describe_machine(),
        "kills": sum(row["kills"] for row in rows.values()),
        "problems": sum(len(row["problems"]) for row in rows.values()),
        "jobs": rows,
        "not_compared": NOT_COMPARED,
    }


if __name__ == "__main__":
    main()
