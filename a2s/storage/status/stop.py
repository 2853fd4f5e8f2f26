"""Why and when a job ended early, from what it has left. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from a2s.storage.parsing import parse_json
from a2s.storage.status.pace import Stop
from a2s.storage.status.pipeline import Status
from a2s.storage.status.shards import ShardsStatus
from a2s.storage.status.text import clock
from a2s.storage.status.training import TrainingStatus


def parse_stop(data: bytes | None) -> Stop | None:
    """Parse `stopped.json`, which an error or a signal leaves; None without it, or if damaged."""
    try:
        values = parse_json(data or b"")
        return Stop(float(values["time_unix_sec"]), str(values["why"]))
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def stop_in_log(log: bytes, *, start_sec: float | None) -> Stop | None:
    """Find the exit code of the last command in the log of `run` or `ablate`.

    None: it is 0, or the job has been started again since.
    """
    last = last_record(log)
    try:
        code, job, stopped_sec = last["exit_code"], last["job"], float(last["time_unix_sec"])
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    if not code or (start_sec is not None and start_sec > stopped_sec):
        return None
    return Stop(stopped_sec, f"after {job} (exit code {code}); the same command continues with it")


def last_record(log: bytes) -> dict[str, Any]:
    """Parse the last line of a log; {} if it is missing or unreadable."""
    try:
        record = parse_json(log.splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def with_stop(status: Status, stop: Stop | None) -> Status:
    """The status of a job that has stopped; of a finished one it is a problem of the last call."""
    if stop is None:
        return status
    if status.state == "finished":
        said = f"its last call stopped at {clock(stop.time_sec)}: {stop.why}"
        return dataclasses.replace(status, problems=[*status.problems, said])
    if isinstance(status, ShardsStatus | TrainingStatus):
        status = dataclasses.replace(status, left_sec=None)
    return dataclasses.replace(status, state="stopped", stopped=stop)
