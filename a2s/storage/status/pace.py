"""Throughput, remaining time and stalls, from completion times. Pure.

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

State = Literal["empty", "started", "running", "paused", "stalled", "finished"]

RECENT_SEC = 300.0
STALL_FACTOR = 3
"""A job counts as stalled after this many times its longest earlier pause."""
STALL_MIN_SEC = 60.0


@dataclass(frozen=True)
class Pace:
    """Throughput of a job, and whether it has stalled."""

    overall_per_sec: float | None
    recent_per_sec: float | None
    """Rate over the five minutes before the newest event."""
    newest_sec: float | None
    """Time of the newest event."""
    silent_sec: float | None
    """Seconds since the newest event, or since the start if that is later."""
    stalled: bool


def pace_of(
    events: Iterable[tuple[float, int]], *, start_sec: float | None, now_sec: float
) -> Pace:
    """Compute the pace from completion events (time in seconds, number of items).

    If events follow `start_sec`, the overall rate is measured from `start_sec`. Otherwise it is
    measured from the first event, whose own items do not count because their duration is unknown.
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
        stalled=longest is not None and silent > max(STALL_MIN_SEC, STALL_FACTOR * longest),
    )


def _rate(events: Sequence[tuple[float, int]], elapsed_sec: float) -> float | None:
    total = sum(count for _, count in events)
    return total / elapsed_sec if total and elapsed_sec > 0 else None


def left_sec(todo: float, pace: Pace) -> float | None:
    """Estimated seconds to the end, assuming that work went on since the newest event."""
    rate = pace.recent_per_sec
    if rate is None or pace.silent_sec is None or pace.stalled:
        return None
    return max(0.0, todo / rate - pace.silent_sec)


def rounded(value: float | None) -> float | None:
    """Round to three decimals."""
    return None if value is None else round(value, 3)


def state_of(finished: bool, pace: Pace, *, any_done: bool) -> State:
    """State of a job in one word."""
    if finished:
        return "finished"
    if pace.stalled:
        return "stalled"
    return "running" if any_done else "started"
