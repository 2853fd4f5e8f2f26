"""Kill commands again and again, repeat them, and compare every file with a run without kills.

    python benchmarks/soak.py [--kills 200] [--minutes M] [--jobs NAME...] \
        [--victims NAME...] [--seed 0] [--folder DIR] --out benchmarks/results/soak.json

A job is a command on drawn scenes. It is started, killed at a random moment or just when one of its
files appears, and started again, until it has been killed often enough; then it runs to its end.
Files must equal those of the run that nobody killed, nothing temporary may be left, and after each
kill no process of the job may live on. Who is killed: the main process, its group, a Ray worker,
the actor with the model, Ray's raylet; or the main process by SIGTERM or SIGINT. What was found is
added to the rounds of the result file. Exit codes: 0 nothing found, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soak_files import NOT_COMPARED, TEMPORARY, contents
from soak_jobs import (
    ACTOR,
    GROUP,
    INT,
    MAIN,
    RAYLET,
    SERVER,
    TERM,
    WORKER,
    Job,
    jobs,
    with_those_before,
)
from soak_processes import RayCluster, kill, kill_all, marked, start

LEFT_SEC = 40.0
"""After a kill, all processes of the job must have ended within this time."""
EXPECTED = {
    "nobody": {0},
    MAIN: {-signal.SIGKILL, 0},
    GROUP: {-signal.SIGKILL, 0},
    # Python's own handlers, before a2s has installed its own, end a process by the signal.
    TERM: {143, -signal.SIGTERM, 0},
    INT: {130, -signal.SIGINT, 0, 1},
    # The task of a killed worker is repeated. Without its raylet the command ends, in one line.
    WORKER: {0},
    ACTOR: {0},
    # Ray itself ends with 1 a process that is just registering with a raylet that dies.
    RAYLET: {0, 1, 2},
    SERVER: {0, 3},
}
"""Exit codes by who was killed; 0 also where the command had just ended."""


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

    def __init__(self, folder: Path, *, seed: int, victims: Sequence[str] = ()) -> None:
        self.folder = folder
        self.victims = victims
        self.work = folder / "work"
        self.random = random.Random(seed)
        self.findings: dict[str, Findings] = {}
        self.cluster = RayCluster()

    def prepare(self, needed: Sequence[Job]) -> dict[str, float]:
        """Draw scenes and run every job once; returns seconds by job.

        All runs have the same working folder, since settings hold paths. Results are copied.
        """
        self.work.mkdir(parents=True)
        draw = (
            "from pathlib import Path; from a2s.data.synthetic import render_folder;"
            "render_folder(Path('scenes'), num_train=24, num_test=6, side_px=96, seed=1)"
        )
        subprocess.run([sys.executable, "-c", draw], cwd=self.work, check=True, capture_output=True)
        seconds = {}
        for job in needed:
            began = time.monotonic()
            self._begin_again(job)
            code, said = self._finish(job)
            if code:
                raise SystemExit(f"soak: {job.name} fails without any kill: {said}")
            seconds[job.name] = time.monotonic() - began
            shutil.copytree(self.work / job.name, self.folder / "whole" / job.name)
        return seconds

    def soak(self, job: Job, *, kills: int, end_sec: float, usual_sec: float) -> None:
        """Kill a job so many times, or until a time, let it end, and compare."""
        found = self.findings.setdefault(job.name, Findings())
        self._begin_again(job)
        while found.kills.total() < kills and time.monotonic() < end_sec:
            self._kill_once(job, found, usual_sec)
        code, said = self._finish(job)
        if code:
            found.problems.append(f"does not resume (exit code {code}): {said}")
        self._compare(job, found)

    def _begin_again(self, job: Job) -> None:
        """Its folder is as before its first start."""
        out = self.work / job.name
        if out.exists():
            shutil.rmtree(out)
        if job.begins_as:
            shutil.copytree(self.folder / "whole" / job.begins_as, out)
        elif job.name == "report":
            out.mkdir()

    def _start(self, job: Job) -> tuple[subprocess.Popen[str], str]:
        address = self.cluster.address() if job.on_cluster else ""
        return start(job, self.work, address=address)

    def _kill_once(self, job: Job, found: Findings, usual_sec: float) -> None:
        victims = [one for one in job.victims if not self.victims or one in self.victims]
        victim = self.random.choice(victims or job.victims)
        moment = self.random.choice(("random", *job.appears))
        process, mark = self._start(job)
        found.runs += 1
        present = set((self.work / job.name).glob(moment)) if moment != "random" else set()
        deadline = time.monotonic() + self.random.uniform(0, 1.2 * usual_sec)
        while process.poll() is None and time.monotonic() < deadline:
            if moment != "random" and set((self.work / job.name).glob(moment)) - present:
                break
            time.sleep(0.0005)
        marks = [mark, self.cluster.mark] if job.on_cluster else [mark]
        killed = False
        while process.poll() is None and not (killed := kill(process, victim, marks)):
            # Ray has not started whom we look for.
            time.sleep(0.02)
        errors = self._end(process, mark, found, victim if killed else "nobody")
        if killed:
            found.kills[victim] += 1
            found.moments[moment] += 1
        code, by = process.returncode, victim if killed else "nobody"
        if code not in EXPECTED[by]:
            found.problems.append(f"exit code {code} after the end of {by}: {errors[-600:]}")
        elif "Traceback" in errors and f"{os.sep}a2s{os.sep}" in errors and code > 0:
            # Python itself may be interrupted before it has begun to import a2s.
            found.problems.append(f"a traceback after the end of {by}: {errors[-600:]}")
        if code == 0:
            # It has ended, perhaps in spite of the kill: begin again.
            self._compare(job, found)
            self._begin_again(job)

    def _end(self, process: subprocess.Popen[str], mark: str, found: Findings, victim: str) -> str:
        """Wait for the end of the job and of all that it has started; return its errors."""
        try:
            process.wait(timeout=900)
        except subprocess.TimeoutExpired:
            found.problems.append(f"hangs after the end of {victim}")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        deadline = time.monotonic() + LEFT_SEC
        while left := marked(mark):
            if time.monotonic() > deadline:
                titles = sorted({title[:60].decode(errors="replace") for title in left.values()})
                found.problems.append(f"processes live on after the end of {victim}: {titles}")
                kill_all(list(left))
            time.sleep(0.05)
        return (self.work / "errors.txt").read_text()

    def _finish(self, job: Job) -> tuple[int, str]:
        process, mark = self._start(job)
        found = self.findings.setdefault(job.name, Findings())
        errors = self._end(process, mark, found, "nobody")
        return process.returncode, errors[-600:]

    def _compare(self, job: Job, found: Findings) -> None:
        killed, whole = contents(self.work / job.name), contents(self.folder / "whole" / job.name)
        found.files += len(whole)
        for name in sorted(killed.keys() | whole.keys()):
            if killed.get(name) != whole.get(name):
                found.problems.append(f"{name} differs")
        left = [
            str(path.relative_to(self.work))
            for path in (self.work / job.name).rglob("*")
            if path.name.endswith(TEMPORARY)
        ]
        if left:
            found.problems.append(f"temporary files are left: {left[:5]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, help="end after this time")
    parser.add_argument("--jobs", nargs="+", choices=[job.name for job in jobs()])
    parser.add_argument("--victims", nargs="+", help="of those of a job, only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty folder; default: a temporary one")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="a2s-soak-"))
    before = json.loads(args.out.read_text()) if args.out.exists() else {"rounds": []}
    soak, began = Soak(folder, seed=args.seed, victims=args.victims or ()), time.monotonic()
    chosen = [job for job in jobs() if args.jobs is None or job.name in args.jobs]
    try:
        usual_sec = soak.prepare(with_those_before(chosen))
        per_job = -(-args.kills // len(chosen))
        for number, job in enumerate(chosen):
            # What is left of the time is shared by the jobs that are left.
            left_sec = 60 * (args.minutes or float("inf")) - (time.monotonic() - began)
            end_sec = time.monotonic() + left_sec / (len(chosen) - number)
            soak.soak(job, kills=per_job, end_sec=end_sec, usual_sec=usual_sec[job.name])
            found = soak.findings[job.name]
            print(job.name, dict(found.kills), found.problems or "no difference", flush=True)
            rounds = [*before["rounds"], this_round(soak, usual_sec)]
            args.out.write_text(json.dumps(summary(rounds), indent=1) + "\n")
    finally:
        soak.cluster.end()
    if args.folder is None:
        shutil.rmtree(folder)
    sys.exit(any(found.problems for found in soak.findings.values()))


def this_round(soak: Soak, usual_sec: dict[str, float]) -> dict[str, Any]:
    """What this call has found so far."""
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
    return {**describe_machine(), "jobs": rows}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The result file: all rounds, and their sums."""
    rows = [(name, row) for one in rounds for name, row in one["jobs"].items()]
    kills: Counter[str] = Counter()
    victims: Counter[str] = Counter()
    for name, row in rows:
        kills[name] += row["kills"]
        victims.update(row["by_victim"])
    return {
        "kills": kills.total(),
        "kills_by_job": dict(kills),
        "kills_by_victim": dict(victims),
        "files_compared": sum(row["files_compared"] for _, row in rows),
        "problems": sum(len(row.get("problems", ())) for _, row in rows),
        "rounds": rounds,
        "not_compared": NOT_COMPARED,
    }


if __name__ == "__main__":
    main()
