"""Runs the steps of `same_results.py` with the code of one side, on one CPU thread.

Commands are started as users start them. Both sides work in the same folder, one after the other,
so no path in their results differs but that of the code. Settings that newer code may keep in
another group are given in a YAML file, which is written as the side's own help spells them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from same_steps import CHOICES, Step

STEP_SEC = 900
"""What runs longer than this hangs."""
DRAWERS = ("a2s.data.synthetic", "a2s.data.scenes")
"""The module that draws scenes, by its newer and its older name."""

_LAUNCHER = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_SCENES = ("--num-train", "12", "--num-test", "20", "--side-px", "72", "--seed", "3")


class StepFailed(Exception):
    """A step did not end well, so nothing can be compared."""


@dataclass(frozen=True)
class Side:
    """One of the two: what it was called by the user, its code, and who runs it."""

    name: str
    asked: str
    tree: Path
    python: str


def spelled(values: Mapping[str, Any], help_text: str) -> dict[str, Any]:
    """The settings nested as the flags of a command's help have them.

    Raises:
        KeyError: the command has no such setting.
    """
    flags = re.findall(r"^[^\w-]*--([a-z][\w.-]*)", help_text, flags=re.M)
    places = {flag.rpartition(".")[2].replace("-", "_"): flag for flag in flags}
    nested: dict[str, Any] = {}
    for name, value in values.items():
        section = nested
        *groups, last = places[name].replace("-", "_").split(".")
        for group in groups:
            section = section.setdefault(group, {})
        section[last] = value
    return nested


class Runner:
    """Runs commands with one side's code; `work` is the folder that both sides have in turn."""

    def __init__(self, side: Side, work: Path, say: Callable[[str], None]) -> None:
        self.side = side
        self.work = work
        self.run = work / "run"
        self.logs = work / f"logs-{side.name}"
        self._say = say
        for name in ("run", "tmp", "choices"):
            shutil.rmtree(work / name, ignore_errors=True)
            (work / name).mkdir(parents=True)
        self.logs.mkdir(exist_ok=True)

    def environment(self) -> dict[str, str]:
        """The user's environment without a launcher's traces; nothing is read that others left."""
        kept = {k: v for k, v in os.environ.items() if k not in _LAUNCHER and k != "RAY_ADDRESS"}
        return {
            **kept,
            "PYTHONPATH": str(self.side.tree),
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
            "ACCELERATE_USE_CPU": "true",
            "CUDA_VISIBLE_DEVICES": "",
            "MPLBACKEND": "Agg",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Sockets have short paths.
            "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", tempfile.gettempdir()),
            "TMPDIR": str(self.work / "tmp"),
            "A2S_CACHE": str(self.work / "tmp"),
            # What numba has kept of a function is not renewed when one that it calls changes.
            "NUMBA_CACHE_DIR": str(self.work / "tmp"),
            "COLUMNS": "200",
        }

    def ask(self, *arguments: str) -> str | None:
        """Standard output of the side's Python; None when it failed."""
        done = subprocess.run(
            [self.side.python, *arguments],
            cwd=self.run,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else None

    def draw_inputs(self) -> None:
        """Draw the scenes that both sides get, and beside them files that must be refused.

        Raises:
            StepFailed: the side has no module that draws.
        """
        inputs = self.work / "inputs"
        drawn = (self.ask("-m", module, str(inputs), *_SCENES) for module in DRAWERS)
        if all(text is None for text in drawn):
            raise StepFailed(f"{self.side.name}: neither of {', '.join(DRAWERS)} draws scenes")
        images, masks = inputs / "test" / "images", inputs / "test" / "masks"
        first = sorted(images.iterdir())[0]
        data = first.read_bytes()
        (images / "cut.jpg").write_bytes(data[: len(data) // 2])
        (images / "empty.jpg").write_bytes(b"")
        (images / "odd-mask.jpg").write_bytes(data)
        truth = (masks / f"{first.stem}.png").read_bytes()
        size = slice(16, 24)  # width and height in the header of a PNG
        others = (path.read_bytes() for path in sorted(masks.iterdir()))
        other = next(mask for mask in others if mask[size] != truth[size])
        (masks / "odd-mask.png").write_bytes(other)
        (masks / "without-image.png").write_bytes(truth)

    def write_choices(self) -> None:
        """Write the files of settings as this side spells them.

        Raises:
            StepFailed: a command of the side lacks one of them.
        """
        texts: dict[str, str] = {}
        for name, sections in CHOICES.items():
            nested = {}
            for command, values in sections.items():
                if command not in texts:
                    shown = (self.ask("-m", "a2s", command, f) for f in ("--help-all", "--help"))
                    texts[command] = next((text for text in shown if text), "")
                try:
                    nested[command] = spelled(values, texts[command])
                except KeyError as error:
                    raise StepFailed(f"{self.side.name}: {command} has no {error}") from None
            file = self.work / "choices" / f"{name}.yaml"
            file.write_text(yaml.safe_dump(nested, sort_keys=False), encoding="utf-8")

    def run_all(self, todo: Sequence[Step]) -> float:
        """Run the steps in order; the seconds that they took.

        Raises:
            StepFailed: one of them has failed; its log is kept.
        """
        begun = time.monotonic()
        for number, step in enumerate(todo, start=1):
            start = time.monotonic()
            log = self.logs / f"{number:02d}-{step.out}.txt"
            code = self._run(step, log)
            seconds = time.monotonic() - start
            title = f"{' '.join(step.named)} -> {step.out}"
            self._say(f"{self.side.name} [{number}/{len(todo)}] {title}: {seconds:.1f} s")
            if code:
                tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
                raise StepFailed(f"{self.side.name}: {title}: exit code {code}; {log}\n{tail}")
        return time.monotonic() - begun

    def _run(self, step: Step, log: Path) -> int:
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(step.ranks)]
        launched = [*launcher, "-m"] if step.ranks > 1 else []
        command = [self.side.python, "-m", *launched, "a2s", *step.arguments]
        with log.open("w", encoding="utf-8") as output:
            child = subprocess.Popen(
                command,
                cwd=self.run,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                return child.wait(timeout=STEP_SEC)
            except subprocess.TimeoutExpired:
                output.write(f"ended after {STEP_SEC} s\n")
                return -signal.SIGTERM
            finally:
                if child.poll() is None:
                    # Too long, Ctrl-C, or SIGTERM: the command ends what it has started.
                    child.terminate()
                    child.wait()
