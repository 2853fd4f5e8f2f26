"""Wall time of the runs of a table, over interruptions and resumes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def wall_sec(
    records: Sequence[Record], out: str, *, alive_sec: Sequence[float] = ()
) -> float | None:
    """Sum the seconds of all attempts of the jobs for one folder; None: no job has started.

    `records` are those of `run_jobs`. A finished job may be called again and does nothing, so
    records after its first success do not count. A killed attempt has no end record: it counts
    until the last line of the folder's own log (`alive_sec`: times at which lines were written).
    """
    total: float | None = None
    begun: dict[str, int] = {}
    done: set[str] = set()
    for number, record in enumerate(records):
        key = str(record.get("key"))
        if record.get("out") != out or key in done:
            continue
        total = total or 0.0
        if record.get("event") == "begins":
            if key in begun:
                total += _killed_sec(records, begun[key], alive_sec)
            begun[key] = number
        elif "elapsed_sec" in record:
            begun.pop(key, None)
            total += float(record["elapsed_sec"])
            if record.get("exit_code") == 0:
                done.add(key)
    if total is not None:
        total += sum(_killed_sec(records, number, alive_sec) for number in begun.values())
    return total


def _killed_sec(records: Sequence[Record], number: int, alive_sec: Sequence[float]) -> float:
    """Seconds from the start in `records[number]` to the last log line before the next record."""
    start = float(records[number]["time_unix_sec"])
    after = records[number + 1 : number + 2]
    end = float(after[0]["time_unix_sec"]) if after else float("inf")
    signs = [time for time in alive_sec if start <= time < end]
    return max(signs, default=start) - start


def training_sec(records: Iterable[Record], *, batch_size: int) -> float:
    """Sum the seconds in training steps from a run's log; steps that were repeated count once."""
    spans: dict[tuple[int, int], float] = {}
    last = (0, 0)
    for record in records:
        if not {"images_per_sec", "epoch", "step"} <= record.keys():
            continue
        at = (int(record["epoch"]), int(record["step"]))
        first = last[1] if last[0] == at[0] and last < at else 0
        rate = float(record["images_per_sec"])
        spans[at] = (at[1] - first) * batch_size / rate if rate > 0 else 0.0
        last = at
    return sum(spans.values())
