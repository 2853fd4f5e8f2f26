"""Rates and stalls, from times of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2s.storage.status.pace import MIN_PATIENCE_SEC, left_sec, pace_of
from a2s.storage.status.text import duration


def every(seconds: float, *, first: float, number: int, count: int = 10) -> list[tuple[float, int]]:
    return [(first + seconds * index, count) for index in range(number)]


def test_steady_work_has_one_rate_from_its_start() -> None:
    pace = pace_of(every(20, first=1020, number=50), start_sec=1000, now_sec=2010)
    assert pace.overall_per_sec == pytest.approx(0.5)
    assert pace.recent_per_sec == pytest.approx(0.5)
    assert pace.newest_sec == 2000
    assert pace.silent_sec == 10
    assert not pace.stalled
    # 100 more at 0.5 a second, of which 10 seconds have passed unseen.
    assert left_sec(100, pace) == pytest.approx(190)


def test_without_a_start_the_first_event_does_not_count() -> None:
    pace = pace_of(every(20, first=1020, number=3), start_sec=None, now_sec=1061)
    assert pace.overall_per_sec == pytest.approx(20 / 40)


def test_recent_rate_sees_the_last_five_minutes_only() -> None:
    slow = every(100, first=100, number=20)
    fast = every(10, first=2010, number=60)
    pace = pace_of([*slow, *fast], start_sec=0, now_sec=2600)
    assert pace.recent_per_sec == pytest.approx(1.0)
    assert pace.overall_per_sec == pytest.approx(800 / 2600)


def test_shards_that_take_longer_than_the_window_still_have_a_rate() -> None:
    pace = pace_of(every(1000, first=1000, number=4), start_sec=0, now_sec=4000)
    assert pace.recent_per_sec == pytest.approx(0.01)


def test_a_restart_ends_a_stall_and_the_pause_before_it_is_in_no_rate() -> None:
    before = every(10, first=10, number=10)
    day = 86_400
    again = pace_of(before, start_sec=day, now_sec=day + 5)
    assert not again.stalled
    assert again.silent_sec == 5
    assert again.overall_per_sec == pytest.approx(1.0)
    after = pace_of([*before, (day + 10, 10)], start_sec=day, now_sec=day + 12)
    assert after.overall_per_sec == pytest.approx(1.0)
    assert after.recent_per_sec == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("usual_sec", "silent_sec", "stalled"),
    [(1, 50, False), (1, 61, True), (100, 299, False), (100, 301, True)],
)
def test_stalled_is_three_times_the_longest_pause_and_a_minute(
    usual_sec: float, silent_sec: float, stalled: bool
) -> None:
    events = every(usual_sec, first=usual_sec, number=5)
    now = events[-1][0] + silent_sec
    pace = pace_of(events, start_sec=0, now_sec=now)
    assert pace.stalled == stalled
    assert (left_sec(10, pace) is None) == stalled


def test_a_job_without_events_never_stalls() -> None:
    pace = pace_of([], start_sec=100, now_sec=100_000)
    assert not pace.stalled
    assert pace.silent_sec == 99_900
    assert pace_of([], start_sec=None, now_sec=5).silent_sec is None


def test_equal_times_and_skewed_clocks_give_valid_numbers() -> None:
    pace = pace_of([(10, 5), (10, 5)], start_sec=10, now_sec=3)
    assert pace.overall_per_sec is None
    assert pace.silent_sec == 0


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 1000)), max_size=30),
    st.none() | st.floats(0, 1e6),
    st.floats(0, 1e6),
)
def test_any_times_give_valid_numbers(
    events: list[tuple[float, int]], start_sec: float | None, now_sec: float
) -> None:
    pace = pace_of(events, start_sec=start_sec, now_sec=now_sec)
    for rate in (pace.overall_per_sec, pace.recent_per_sec):
        assert rate is None or rate > 0
    assert pace.silent_sec is None or pace.silent_sec >= 0
    assert not pace.stalled or (pace.silent_sec or 0) > MIN_PATIENCE_SEC
    left = left_sec(100, pace)
    assert left is None or left >= 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (600, "10 min"), (20_220, "5 h 37 min"), (273_600, "3 d 4 h")],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
