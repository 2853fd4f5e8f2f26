"""How fast things become ready, from the times at which they did. Pure.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

State = Literal["empty", "started", "running", "paused", "stalled", "finished"]

RECENT_SEC = 300.0
PATIENCE = 3
"""A job has stalled after this many times the longest pause that it made before."""
MIN_PATIENCE_SEC = 60.0


@dataclass(frozen=True)
class Pace:
    """Things per second, and whether they still come."""

    overall_per_sec: float | None
    recent_per_sec: float | None
    """Over the five minutes before the newest one."""
    newest_sec: float | None
    silent_sec: float | None
    """Time since the newest one, or since the start if that was later."""
    stalled: bool


def pace_of(
    events: Iterable[tuple[float, int]], *, start_sec: float | None, now_sec: float
) -> Pace:
    """Rate of things that became ready at known times: (seconds, how many) each.

    The rate since `start_sec`, when something became ready after it; otherwise, as the time that
    the first one took is not known, of all but the first.
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
    """Seconds to the end; what was done since the newest event cannot be seen, but time passed."""
    rate = pace.recent_per_sec
    if rate is None or pace.silent_sec is None or pace.stalled:
        return None
    return max(0.0, todo / rate - pace.silent_sec)


def rounded(value: float | None) -> float | None:
    """To milliseconds, or thousandths of an image."""
    return None if value is None else round(value, 3)


def state_of(finished: bool, pace: Pace, *, any_done: bool) -> State:
    """The state in one word."""
    if finished:
        return "finished"
    if pace.stalled:
        return "stalled"
    return "running" if any_done else "started"
