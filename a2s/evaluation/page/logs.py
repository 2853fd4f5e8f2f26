"""What a run's logs say: losses, corrected pixels, votes of heads, failures, commands.

Logs are read line by line; lines that cannot be read are skipped and counted.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from a2s.storage.files import open_file, read_bytes
from a2s.storage.parsing import parse_json

LISTED = ("failures.jsonl", "unlabelled.jsonl", "left_out.jsonl")
"""Files that list images which a command left out."""
EXAMPLES = 5
POINTS = 400
"""Most points of a line; longer logs are averaged."""
_LOSSES, _FLIPS = ("loss", "bce", "ssim", "iou", "foreground_share"), "label_flip_share"


@dataclass
class TrainingLog:
    """Losses over epochs, and the last word on heads."""

    epochs: list[float] = field(default_factory=list)
    """Position of every log line in epochs."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    flips_by_epoch: dict[int, float] = field(default_factory=dict)
    """Mean `label_flip_share` of the log lines of an epoch."""
    agreement: dict[tuple[int, int], float] = field(default_factory=dict)
    """Mean intersection over union of two heads' foregrounds."""
    kept: list[int] = field(default_factory=list)
    damaged: int = 0


@dataclass
class LeftOut:
    """Images that one list of one step names, by reason."""

    list_name: str
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)
    """Path or key, and detail."""
    damaged: int = 0

    @property
    def total(self) -> int:
        """Number of images."""
        return sum(self.reasons.values())


def records(path: Path) -> Iterator[dict[str, Any] | None]:
    """Parse a file of JSON lines; None for a line that is no object. Nothing without the file."""
    try:
        file = open_file(path)
    except OSError:
        return
    with file:
        for line in file:
            try:
                value = parse_json(line)
            except ValueError:
                value = None
            yield value if isinstance(value, dict) else None


def training_log(run: Path) -> TrainingLog:
    """Read `metrics.jsonl` of stage 1 or 2. Where a run was resumed, the later lines count."""
    log = TrainingLog()
    steps: dict[tuple[int, int], dict[str, float]] = {}
    for record in records(run / "metrics.jsonl"):
        try:
            if record is None:
                log.damaged += 1
            elif record.get("event") == "heads":
                pairs = record["agreement"].items()
                log.agreement = {_pair(name): float(value) for name, value in pairs}
                log.kept = [int(head) for head in record["kept"]]
            elif "event" not in record:
                steps[int(record["epoch"]), int(record["step"])] = {
                    name: float(record[name]) for name in (*_LOSSES, _FLIPS) if name in record
                }
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            log.damaged += 1
    per_epoch = max((step for _, step in steps), default=1)
    flips: defaultdict[int, list[float]] = defaultdict(list)
    # Averaged from the start: a long log must not make a long page.
    for group in np.array_split(np.array(sorted(steps)), min(len(steps), POINTS) or 1):
        part = [steps[int(epoch), int(step)] for epoch, step in group]
        if not part:
            continue
        log.epochs.append(float(np.mean([epoch - 1 + step / per_epoch for epoch, step in group])))
        for name in _LOSSES:
            values = [record.get(name, math.nan) for record in part]
            log.losses.setdefault(name, []).append(float(np.mean(values)))
    for (epoch, _), record in steps.items():
        if _FLIPS in record:
            flips[epoch].append(record[_FLIPS])
    log.flips_by_epoch = {epoch: float(np.mean(flips[epoch])) for epoch in sorted(flips)}
    log.losses = {k: v for k, v in log.losses.items() if not np.isnan(v).all()}
    return log


def left_out(folder: Path) -> list[LeftOut]:
    """Read what the lists of a folder say about images that were left out."""
    found = []
    for name in LISTED:
        part = LeftOut(name)
        for record in records(folder / name):
            if record is None:
                part.damaged += 1
                continue
            part.reasons[str(record.get("reason", "not good enough"))] += 1
            if len(part.examples) < EXAMPLES:
                path = str(record.get("path") or record.get("key", ""))
                detail = record.get("detail") or record.get("quality", "")
                part.examples.append((path, str(detail)))
        if part.total or part.damaged:
            found.append(part)
    return found


def step_times(run: Path) -> list[tuple[str, str, float, int | None]]:
    """Commands of a finished or stopped `run`: name, folder, seconds of all calls, exit code."""
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    codes: dict[tuple[str, str], int | None] = {}
    for record in records(run / "metrics.jsonl"):
        if record and "elapsed_sec" in record and "job" in record:
            step = (str(record["job"]), Path(str(record.get("out", ""))).name)
            if step[0] == "evaluate":
                step = (step[0], f"scores/{step[1]}")
            try:
                seconds[step] += float(record["elapsed_sec"])
            except (TypeError, ValueError, OverflowError):
                continue
            code = record.get("exit_code")
            codes[step] = code if isinstance(code, int) else None
    return [(*step, seconds[step], codes[step]) for step in codes]


def judged(run: Path) -> list[str]:
    """The last verdict and warnings of `run`; nothing before it has finished."""
    lines: list[str] = []
    for record in records(run / "metrics.jsonl"):
        if record and record.get("event") == "judged":
            said = record.get("lines")
            lines = [str(line) for line in said] if isinstance(said, list) else []
    return lines


def environment(folder: Path) -> dict[str, Any]:
    """What `environment.json` says; {} without it."""
    try:
        values = parse_json(read_bytes(folder / "environment.json"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def command_line(recorded: dict[str, Any]) -> str:
    """The command as it can be pasted into a shell; "" if it is unknown."""
    arguments = recorded.get("argv")
    if not isinstance(arguments, list) or len(arguments) < 2:
        return ""
    return shlex.join(["a2s", *(str(one) for one in arguments[1:])])


def _pair(name: str) -> tuple[int, int]:
    first, second = name.split(" and ")
    return int(first), int(second)
