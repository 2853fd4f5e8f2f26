"""Rate of a job and stall detection, from the times at which its items finished. Pure.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

State = Literal["empty", "started", "running", "paused", "stalled", "stopped", "finished"]

RECENT_SEC = 300.0
PATIENCE = 3
"""A job has stalled after this many times its longest pause so far."""
MIN_PATIENCE_SEC = 60.0


@dataclass(frozen=True)
class Stop:
    """The end of a job before it had done its work: when, and why."""

    time_sec: float
    why: str


@dataclass(frozen=True)
class Pace:
    """Items per second, and whether the job has stalled."""

    overall_per_sec: float | None
    recent_per_sec: float | None
    """Rate over the five minutes before the newest item."""
    newest_sec: float | None
    silent_sec: float | None
    """Time since the newest item, or since the start if that was later."""
    stalled: bool


def pace_of(
    events: Iterable[tuple[float, int]], *, start_sec: float | None, now_sec: float
) -> Pace:
    """Compute the rate from events (time in seconds, number of items).

    If an event is later than `start_sec`, the rate is counted from there. Otherwise it leaves out
    the first event, because the time that it took is unknown.
    """
    ordered = sorted(events)
    since_start = [event for event in ordered if start_sec is not None and event[0] >= start_sec]
    if since_start and start_sec is not None:
        origin, counted = start_sec, since_start
    elif ordered:
        origin, counted = ordered[0][0], ordered[1:]
    else:
        silent = None if start_sec is None else max(0.0, now_sec - start_sec)
        return Pace(None, None, None, silent, stalled=False)
    times = [origin, *(time for time, _ in counted)]
    newest = times[-1]
    anchor = max((time for time in times if time <= newest - RECENT_SEC), default=origin)
    recent = [event for event in counted if event[0] > anchor]
    silent = max(0.0, now_sec - max(newest, start_sec or newest))
    longest = max((later - earlier for earlier, later in pairwise(times)), default=None)
    return Pace(
        overall_per_sec=_rate(counted, newest - origin),
        recent_per_sec=_rate(recent, newest - anchor),
        newest_sec=newest,
        silent_sec=silent,
        stalled=longest is not None and silent > max(MIN_PATIENCE_SEC, PATIENCE * longest),
    )


def _rate(events: Sequence[tuple[float, int]], elapsed_sec: float) -> float | None:
    total = sum(count for _, count in events)
    return total / elapsed_sec if total and elapsed_sec > 0 else None


def left_sec(todo: float, pace: Pace) -> float | None:
    """Remaining seconds, assuming that work went on at the recent rate since the newest event."""
    rate = pace.recent_per_sec
    if rate is None or pace.silent_sec is None or pace.stalled:
        return None
    return max(0.0, todo / rate - pace.silent_sec)


def rounded(value: float | None) -> float | None:
    """Round to three decimals: milliseconds, or thousandths of an image."""
    return None if value is None else round(value, 3)


def state_of(finished: bool, pace: Pace, *, any_done: bool) -> State:
    """Return the state in one word."""
    if finished:
        return "finished"
    if pace.stalled:
        return "stalled"
    return "running" if any_done else "started"
