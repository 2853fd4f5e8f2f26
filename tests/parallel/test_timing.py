"""Seconds by stage, from blocks, laps and several threads."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from a2s.parallel.timing import StageTimer


def test_blocks_add_up_also_when_they_raise_and_from_several_threads() -> None:
    seconds = {"write": 1.0}
    timer = StageTimer(seconds)

    def sleep(_: int) -> None:
        with timer.stage("decode"):
            time.sleep(0.02)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(sleep, range(8)))
    with pytest.raises(ZeroDivisionError), timer.stage("write"):
        1 / 0  # noqa: B018
    assert seconds["decode"] >= 8 * 0.02
    assert 1.0 < seconds["write"] < 1.01


def test_a_lap_begins_where_the_last_one_ended() -> None:
    seconds: dict[str, float] = {}
    timer = StageTimer(seconds)
    time.sleep(0.05)
    timer.begin_lap()
    time.sleep(0.02)
    timer.lap("queue")
    timer.lap("network")
    assert 0.02 <= seconds["queue"] < 0.05
    assert seconds["network"] < 0.01
