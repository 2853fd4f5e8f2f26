"""How long the runs of a table took, also when they were interrupted and resumed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def wall_sec(
    records: Sequence[Record], out: str, *, alive_sec: Sequence[float] = ()
) -> float | None:
    """Seconds that the jobs for one folder took, all attempts together; None: no job has begun.

    `records` are those of `run_jobs`. A job that is done is called again and does nothing: what
    comes after its first success does not count. An attempt that was killed has left no end; it
    lasted until the folder's own log (`alive_sec`: when its lines were written) falls silent.
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
            if record["exit_code"] == 0:
                done.add(key)
    if total is not None:
        total += sum(_killed_sec(records, number, alive_sec) for number in begun.values())
    return total


def _killed_sec(records: Sequence[Record], number: int, alive_sec: Sequence[float]) -> float:
    """From the beginning in `records[number]` to the last sign of life before the next record."""
    start = float(records[number]["time_unix_sec"])
    after = records[number + 1 : number + 2]
    end = float(after[0]["time_unix_sec"]) if after else float("inf")
    signs = [time for time in alive_sec if start <= time < end]
    return max(signs, default=start) - start


def training_sec(records: Iterable[Record], *, batch_size: int) -> float:
    """Seconds in training steps, from a run's own log; steps that were done twice count once."""
    spans: dict[tuple[int, int], float] = {}
    last = (0, 0)
    for record in records:
        if "images_per_sec" not in record:
            continue
        at = (int(record["epoch"]), int(record["step"]))
        first = last[1] if last[0] == at[0] and last < at else 0
        rate = float(record["images_per_sec"])
        spans[at] = (at[1] - first) * batch_size / rate if rate > 0 else 0.0
        last = at
    return sum(spans.values())
