"""Status as text for the terminal. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator

from a2s.storage.status import quality
from a2s.storage.status.pace import State
from a2s.storage.status.pipeline import CommandStatus, PipelineStatus, Status, StepStatus
from a2s.storage.status.shards import Reason, ShardsStatus
from a2s.storage.status.training import TrainingStatus

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def describe(out: str, status: Status, *, now_sec: float) -> str:
    """Describe a status in full, one line per aspect."""
    name = f"a2s {status.command}, " if status.command else ""
    lines = [f"{out}: {name}{_state(status, now_sec=now_sec)}"]
    if isinstance(status, ShardsStatus):
        lines += _shard_lines(status)
    elif isinstance(status, TrainingStatus):
        lines += _training_lines(status)
    elif isinstance(status, PipelineStatus):
        lines += _step_lines(status)
    lines += [f"  problem   {problem}" for problem in status.problems]
    return "\n".join(lines)


def summarise(status: StepStatus) -> str:
    """Describe a status in one line, without its state."""
    if isinstance(status, ShardsStatus):
        parts = [_of(status.images_done, status, unit=" images")]
        parts += [f"{status.num_failed:,} failed"] if status.num_failed else []
    elif isinstance(status, TrainingStatus):
        parts = [f"epoch {_epoch(status)}"]
        parts += [] if status.loss is None else [f"loss {status.loss:.4f}"]
    else:
        parts = []
    if not isinstance(status, CommandStatus) and status.left_sec is not None:
        parts.append(f"{duration(status.left_sec)} left")
    problems = len(status.problems)
    parts += [f"{problems} problem{'s' * (problems > 1)}"] if problems else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Format a time span with at most two units."""
    whole = round(seconds)
    if whole < 2 * _MINUTE:
        return f"{whole} s"
    if whole < 2 * _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def clock(seconds: float) -> str:
    """Format date and time in UTC, like the logs of a cluster."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"an impossible date ({seconds:g})"


def counted(names: list[str], what: str) -> str:
    """Format a count with its noun: `2 manifests`."""
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'}"


def few(names: list[str]) -> str:
    """Format the first three names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _state(status: Status, *, now_sec: float) -> str:
    state: State = status.state
    done = ""
    if isinstance(status, PipelineStatus):
        done = f", {status.steps_done} of {len(status.steps)} steps done"
    if status.stopped is not None:
        return f"stopped{done}; at {clock(status.stopped.time_sec)}: {status.stopped.why}"
    if isinstance(status, PipelineStatus):
        return f"{state}{done}"
    if state == "empty":
        return "empty, nothing has been written yet"
    silent = status.silent_sec
    if silent is None:
        return state
    if state == "stalled":
        return f"stalled since {clock(now_sec - silent)} ({duration(silent)})"
    if state == "started" and isinstance(status, ShardsStatus):
        return f"started {duration(silent)} ago, no shard is finished yet"
    if state == "started" and isinstance(status, TrainingStatus):
        return f"started {duration(silent)} ago, no step is logged yet"
    return state


def _shard_lines(status: ShardsStatus) -> Iterator[str]:
    if status.state == "started":
        if status.num_images is not None:
            yield f"  images    {_of(status.images_done, status)}"
    else:
        total = status.num_shards
        shards = f"{status.shards_done:,}" + (f" of {total:,}" if total is not None else "")
        newest = ""
        if status.newest_sec is not None:
            newest = f", the newest of {clock(status.newest_sec)}"
        yield f"  shards    {shards}{newest}"
        yield f"  images    {_of(status.images_done, status)}"
    overall, recent = status.rate_images_per_sec, status.recent_rate_images_per_sec
    rates = [f"{overall:.2f} images/s overall"] if overall is not None else []
    if recent is not None and status.state != "finished":
        rates.append(f"{recent:.2f} in the last 5 minutes")
    if rates:
        yield f"  rate      {', '.join(rates)}"
    if status.left_sec is not None:
        yield f"  left      {duration(status.left_sec)}"
    if status.num_empty:
        yield f"  empty     {status.num_empty:,} labels without a salient pixel"
    if status.quality_counts and any(status.quality_counts):
        line = quality.describe(status.quality_counts, num_no_object=status.num_no_object or 0)
        yield f"  quality   {line}"
    if status.num_left_out:
        yield f"  left out  {status.num_left_out:,} labels below --min-quality"
    if status.num_failed:
        share = status.num_failed / max(status.images_done, 1)
        yield f"  failed    {status.num_failed:,} images ({share:.2%})"
        yield from (f"            {_reason(reason)}" for reason in status.failures)


def _of(done: int, status: ShardsStatus, *, unit: str = "") -> str:
    if status.num_images is None:
        return f"{done:,}{unit}"
    about = "" if status.num_images_is_exact else "about "
    share = done / max(status.num_images, 1)
    return f"{done:,} of {about}{status.num_images:,}{unit} ({share:.1%})"


def _reason(reason: Reason) -> str:
    more = ", …" if reason.count > len(reason.keys) else ""
    keys = ", ".join(key or "(no key)" for key in reason.keys)
    return f"{reason.count:,} {reason.reason} ({reason.share:.2%}): {keys}{more}"


def _training_lines(status: TrainingStatus) -> Iterator[str]:
    share = "" if status.share is None else f" ({status.share:.1%})"
    newest = ""
    if status.newest_sec is not None:
        newest = f", logged at {clock(status.newest_sec)}"
    yield f"  epoch     {_epoch(status)}{share}{newest}"
    if status.commit is not None:
        step = f", step {status.commit_step}" if status.commit_step else ""
        yield f"  commit    {status.commit:05d}, epoch {status.commit_epoch}{step}"
    if status.loss is not None:
        yield f"  loss      {status.loss:.6f}"
    is_active = status.state not in ("paused", "finished")
    if status.recent_rate_images_per_sec is not None and is_active:
        yield (
            f"  rate      {status.recent_rate_images_per_sec:.2f} images/s in the last 5 minutes"
        )
    if status.left_sec is not None:
        yield f"  left      {duration(status.left_sec)}"
    if status.then is not None:
        yield f"  paused    {status.then}"


def _epoch(status: TrainingStatus) -> str:
    text = f"{status.epoch} of {status.num_epochs}"
    if status.state == "finished":
        return text
    steps = f" of {status.num_steps}" if status.num_steps else ""
    return f"{text}, step {status.step}{steps}"


def _step_lines(status: PipelineStatus) -> Iterator[str]:
    for step in status.steps:
        state = step.status.state if step.status else "not yet"
        detail = summarise(step.status) if step.status else ""
        yield f"  {step.folder:<15} {step.command:<8} {state:<8} {detail}".rstrip()
