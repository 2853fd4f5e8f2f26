"""Status of training runs, from log and commits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from a2s.storage.status.training import (
    Pause,
    TrainingStatus,
    parse_log,
    parse_pause,
    training_status,
)


def record(epoch: int, step: int, time_sec: float) -> dict[str, Any]:
    return {"epoch": epoch, "step": step, "time_unix_sec": time_sec, "loss": 1.0 / epoch}


def commit(number: int, epoch: int, *, step: int = 0, finished: bool = False) -> dict[str, Any]:
    return {"commit": number, "state": {"epoch": epoch, "step": step, "finished": finished}}


def status(
    records: list[dict[str, Any]],
    last: dict[str, Any] | None,
    *,
    now_sec: float,
    start_sec: float | None = 0,
    pause: Pause | None = None,
) -> TrainingStatus:
    return training_status(
        records,
        last,
        command="stage1",
        num_epochs=4,
        batch_size=8,
        start_sec=start_sec,
        now_sec=now_sec,
        pause=pause,
    )


def steady(first: int, last: int, *, start_sec: float = 0) -> list[dict[str, Any]]:
    """100 steps an epoch, logged every 20, one step a second."""
    return [
        record(epoch, step, start_sec + (epoch - first) * 100 + step)
        for epoch in range(first, last + 1)
        for step in range(20, 101, 20)
    ]


def test_between_epochs() -> None:
    found = status(steady(1, 2), commit(2, 2), now_sec=210)
    assert found.state == "running"
    assert (found.epoch, found.step, found.num_steps) == (3, 0, 100)
    assert (found.commit, found.commit_epoch, found.share) == (2, 2, 0.5)
    assert found.recent_rate_images_per_sec == pytest.approx(8.0)
    assert found.left_sec == pytest.approx(190)
    assert found.loss == 0.5


def test_in_the_first_epoch_the_number_of_steps_is_not_known() -> None:
    found = status([record(1, 20, 20), record(1, 40, 40)], None, now_sec=41)
    assert (found.epoch, found.step, found.num_steps) == (1, 40, None)
    assert found.share is None
    assert found.left_sec is None
    assert found.recent_rate_images_per_sec == pytest.approx(8.0)


def test_just_started() -> None:
    found = status([], None, start_sec=100, now_sec=130)
    assert (found.state, found.silent_sec, found.share) == ("started", 30, 0.0)


def test_resumed_from_the_commit_before_the_last_entries_of_the_log() -> None:
    lost = [record(3, 20, 220), record(3, 40, 240)]
    quiet = status([*steady(1, 2), *lost], commit(2, 2), start_sec=9000, now_sec=9005)
    assert (quiet.state, quiet.epoch, quiet.step, quiet.silent_sec) == ("running", 3, 0, 5)
    again = [record(3, 20, 9030), record(3, 40, 9070)]
    found = status([*steady(1, 2), *lost, *again], commit(2, 2), start_sec=9000, now_sec=9071)
    assert (found.epoch, found.step) == (3, 40)
    # Twenty steps of eight images in forty seconds; the night in between is in no rate.
    assert found.recent_rate_images_per_sec == pytest.approx(4.0)


def test_stalled_and_finished() -> None:
    stalled = status(steady(1, 2), commit(2, 2), now_sec=10_000)
    assert stalled.state == "stalled"
    assert stalled.left_sec is None
    done = status(steady(1, 4), commit(4, 4, finished=True), now_sec=10_000)
    assert (done.state, done.share, done.left_sec) == ("finished", 1.0, None)
    assert (done.epoch, done.num_epochs) == (4, 4)


def test_unfinished_and_damaged_log_lines() -> None:
    whole = json.dumps(record(1, 20, 5.0)).encode()
    records, damaged = parse_log(whole + b"\n" + whole[:30])
    assert (len(records), damaged) == (1, 0)
    records, damaged = parse_log(b"\xff\n[]\n{}\n" + whole + b"\n")
    assert (len(records), damaged) == (1, 3)
    assert parse_log(b"") == ([], 0)


def test_a_pause_counts_until_the_next_start() -> None:
    lines = [*steady(1, 2), {"event": "paused", "time_unix_sec": 201.0, "then": "go on"}]
    log = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    records, damaged = parse_log(log)
    assert (len(records), damaged) == (10, 0)
    pause = parse_pause(log)
    assert pause == Pause(201.0, "go on")
    found = status(records, commit(2, 2), start_sec=0, now_sec=90_000, pause=pause)
    assert (found.state, found.then, found.left_sec) == ("paused", "go on", None)
    again = status(records, commit(2, 2), start_sec=300, now_sec=301, pause=pause)
    assert (again.state, again.then) == ("running", None)
    later = log + json.dumps(record(3, 20, 320)).encode() + b"\n"
    assert parse_pause(later) is None
    assert parse_pause(b"") is None
