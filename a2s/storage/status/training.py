"""Progress of a training run, from its last commit and its log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from a2s.storage.parsing import parse_json
from a2s.storage.status.pace import State, Stop, left_sec, pace_of, rounded, state_of


@dataclass(frozen=True)
class TrainingStatus:
    """Progress of a run of stage 1 or 2; `step` counts within the current epoch."""

    command: str
    state: State
    epoch: int
    num_epochs: int
    step: int
    num_steps: int | None
    share: float | None
    loss: float | None
    recent_rate_images_per_sec: float | None
    left_sec: float | None
    silent_sec: float | None
    newest_sec: float | None
    commit: int | None
    commit_epoch: int | None
    commit_step: int | None
    problems: list[str] = field(default_factory=list)
    then: str | None = None
    """How to continue a paused run."""
    stopped: Stop | None = None


@dataclass(frozen=True)
class Pause:
    """Record of a job that ended before the last epoch: when, and how to continue."""

    time_sec: float
    then: str


def parse_log(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """Parse the steps in `metrics.jsonl` and count its unreadable lines.

    An unterminated last line is ignored, because another process may be writing it. Lines with an
    `event` are no steps.
    """
    records: list[dict[str, Any]] = []
    damaged = 0
    for line in data.split(b"\n")[:-1]:
        try:
            values = parse_json(line)
            if "event" in values:
                continue
            records.append(
                {
                    "epoch": int(values["epoch"]),
                    "step": int(values["step"]),
                    "time_unix_sec": float(values["time_unix_sec"]),
                    "loss": float(values["loss"]),
                }
            )
        except (ValueError, TypeError, KeyError, OverflowError):
            damaged += 1
    return records, damaged


def parse_pause(data: bytes) -> Pause | None:
    """Parse the pause at the end of `metrics.jsonl`; None: it ends otherwise."""
    try:
        values = parse_json(data.split(b"\n")[:-1][-1])
        return Pause(float(values["time_unix_sec"]), str(values["then"]))
    except (IndexError, ValueError, TypeError, KeyError):
        return None


def training_status(
    records: Sequence[dict[str, Any]],
    commit: dict[str, Any] | None,
    *,
    command: str,
    num_epochs: int,
    batch_size: int,
    start_sec: float | None,
    now_sec: float,
    problems: Sequence[str] = (),
    pause: Pause | None = None,
) -> TrainingStatus:
    """Summarise a run.

    A `pause` counts unless the run has been started again since. `commit` is the content of the
    last commit file. Steps logged after it are not durable yet, but they are done, so the rate and
    the remaining time include them.
    """
    state = commit["state"] if commit else {"epoch": 0, "step": 0, "finished": False}
    finished = bool(state["finished"])
    num_steps = _steps_per_epoch(records, committed_epochs=int(state["epoch"]))
    at = _position(records, state, start_sec=start_sec)
    share = None
    if finished:
        share = 1.0
    elif num_steps:
        share = ((at[0] - 1) * num_steps + at[1]) / (num_epochs * num_steps)
    elif at == (1, 0):
        share = 0.0

    # Epoch and step jump back where a run resumed from an earlier commit: use the log after that.
    stretch = _last_stretch(records)
    events = [(record["time_unix_sec"], 0) for record in stretch[:1]]
    for before, after in pairwise(stretch):
        epochs = after["epoch"] - before["epoch"]
        steps = after["step"] - before["step"] + epochs * (num_steps or 0)
        events.append((after["time_unix_sec"], steps))
    # A start after the last log entry shows that the job is alive; it must not enter a rate.
    restarted = start_sec is not None and (not events or start_sec > events[-1][0])
    pace = pace_of(events, start_sec=start_sec if restarted else None, now_sec=now_sec)
    todo = None if share is None or not num_steps else (1 - share) * num_epochs * num_steps
    last = records[-1] if records else {}
    rate = None if pace.recent_per_sec is None else pace.recent_per_sec * batch_size
    if pause is not None and start_sec is not None and start_sec > pause.time_sec:
        pause = None
    state_now = state_of(finished, pace, any_done=bool(records or commit))
    idle = finished or pause is not None
    return TrainingStatus(
        command=command,
        state="paused" if pause else state_now,
        epoch=at[0],
        num_epochs=num_epochs,
        step=at[1],
        num_steps=num_steps,
        share=rounded(share),
        loss=last.get("loss"),
        recent_rate_images_per_sec=rounded(rate),
        left_sec=None if idle or todo is None else rounded(left_sec(todo, pace)),
        silent_sec=rounded(pace.silent_sec),
        newest_sec=pace.newest_sec,
        commit=int(commit["commit"]) if commit else None,
        commit_epoch=int(state["epoch"]) if commit else None,
        commit_step=int(state["step"]) if commit else None,
        problems=list(problems),
        then=pause.then if pause else None,
    )


def _steps_per_epoch(records: Sequence[dict[str, Any]], *, committed_epochs: int) -> int | None:
    """Number of steps per epoch: the last logged step of a finished epoch (it is always logged)."""
    last_epoch = records[-1]["epoch"] if records else 0
    whole = [
        r["step"] for r in records if r["epoch"] < last_epoch or r["epoch"] <= committed_epochs
    ]
    return max(whole, default=None)


def _position(
    records: Sequence[dict[str, Any]], state: dict[str, Any], *, start_sec: float | None
) -> tuple[int, int]:
    """Current epoch (from 1) and steps done in it; a log from before the start does not count."""
    committed = (int(state["epoch"]) + 1, int(state["step"]))
    if state["finished"]:
        return (int(state["epoch"]), 0)
    if not records or (start_sec is not None and records[-1]["time_unix_sec"] < start_sec):
        return committed
    logged = (int(records[-1]["epoch"]), int(records[-1]["step"]))
    return max(committed, logged)


def _last_stretch(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the longest tail of the records in which epoch and step increase."""
    first = max(
        (
            number
            for number in range(1, len(records))
            if (records[number]["epoch"], records[number]["step"])
            <= (records[number - 1]["epoch"], records[number - 1]["step"])
        ),
        default=0,
    )
    return list(records[first:])
