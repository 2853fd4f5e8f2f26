"""Standings in words. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator

from a2s.storage.status.pace import State
from a2s.storage.status.pipeline import Plain, Standing, Whole
from a2s.storage.status.shards import Reason, Shards
from a2s.storage.status.training import Training

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def describe(out: str, standing: Standing, *, now_sec: float) -> str:
    """Everything that is known, one line per thing."""
    name = f"a2s {standing.command}, " if standing.command else ""
    lines = [f"{out}: {name}{_state(standing, now_sec=now_sec)}"]
    if isinstance(standing, Shards):
        lines += _shard_lines(standing)
    elif isinstance(standing, Training):
        lines += _training_lines(standing)
    elif isinstance(standing, Whole):
        lines += _step_lines(standing)
    lines += [f"  problem   {problem}" for problem in standing.problems]
    return "\n".join(lines)


def summarise(standing: Shards | Training | Plain) -> str:
    """The same in one line, without the state."""
    if isinstance(standing, Shards):
        parts = [_of(standing.images_done, standing, unit=" images")]
        parts += [f"{standing.num_failed:,} failed"] if standing.num_failed else []
    elif isinstance(standing, Training):
        parts = [f"epoch {_epoch(standing)}"]
        parts += [] if standing.loss is None else [f"loss {standing.loss:.4f}"]
    else:
        parts = []
    if not isinstance(standing, Plain) and standing.left_sec is not None:
        parts.append(f"{duration(standing.left_sec)} left")
    problems = len(standing.problems)
    parts += [f"{problems} problem{'s' * (problems > 1)}"] if problems else []
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time span with the two units that matter."""
    whole = round(seconds)
    if whole < 2 * _MINUTE:
        return f"{whole} s"
    if whole < 2 * _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def clock(seconds: float) -> str:
    """Date and time, in UTC as on the machines of a cluster."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def counted(names: list[str], what: str) -> str:
    """A number of things: `2 manifests`."""
    return f"{len(names):,} {what}{'' if len(names) == 1 else 's'}"


def few(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _state(standing: Standing, *, now_sec: float) -> str:
    state: State = standing.state
    if isinstance(standing, Whole):
        return f"{state}, {standing.steps_done} of {len(standing.steps)} steps done"
    if state == "empty":
        return "empty, nothing has been written yet"
    silent = standing.silent_sec
    if silent is None:
        return state
    if state == "stalled":
        return f"stalled since {clock(now_sec - silent)} ({duration(silent)})"
    if state == "started" and isinstance(standing, Shards):
        return f"started {duration(silent)} ago, no shard is finished yet"
    if state == "started" and isinstance(standing, Training):
        return f"started {duration(silent)} ago, no step is logged yet"
    return state


def _shard_lines(standing: Shards) -> Iterator[str]:
    if standing.state == "started":
        if standing.num_images is not None:
            yield f"  images    {_of(standing.images_done, standing)}"
    else:
        total = standing.num_shards
        shards = f"{standing.shards_done:,}" + (f" of {total:,}" if total is not None else "")
        newest = ""
        if standing.newest_sec is not None:
            newest = f", the newest of {clock(standing.newest_sec)}"
        yield f"  shards    {shards}{newest}"
        yield f"  images    {_of(standing.images_done, standing)}"
    overall, recent = standing.rate_images_per_sec, standing.recent_rate_images_per_sec
    rates = [f"{overall:.2f} images/s overall"] if overall is not None else []
    if recent is not None and standing.state != "finished":
        rates.append(f"{recent:.2f} in the last 5 minutes")
    if rates:
        yield f"  rate      {', '.join(rates)}"
    if standing.left_sec is not None:
        yield f"  left      {duration(standing.left_sec)}"
    if standing.num_empty:
        yield f"  empty     {standing.num_empty:,} labels without a salient pixel"
    if standing.num_failed:
        share = standing.num_failed / max(standing.images_done, 1)
        yield f"  failed    {standing.num_failed:,} images ({share:.2%})"
        yield from (f"            {_reason(reason)}" for reason in standing.failures)


def _of(done: int, standing: Shards, *, unit: str = "") -> str:
    if standing.num_images is None:
        return f"{done:,}{unit}"
    about = "" if standing.num_images_is_exact else "about "
    share = done / max(standing.num_images, 1)
    return f"{done:,} of {about}{standing.num_images:,}{unit} ({share:.1%})"


def _reason(reason: Reason) -> str:
    more = ", …" if reason.count > len(reason.keys) else ""
    keys = ", ".join(key or "(no key)" for key in reason.keys)
    return f"{reason.count:,} {reason.reason} ({reason.share:.2%}): {keys}{more}"


def _training_lines(standing: Training) -> Iterator[str]:
    share = "" if standing.share is None else f" ({standing.share:.1%})"
    newest = ""
    if standing.newest_sec is not None:
        newest = f", logged at {clock(standing.newest_sec)}"
    yield f"  epoch     {_epoch(standing)}{share}{newest}"
    if standing.commit is not None:
        step = f", step {standing.commit_step}" if standing.commit_step else ""
        yield f"  commit    {standing.commit:05d}, epoch {standing.commit_epoch}{step}"
    if standing.loss is not None:
        yield f"  loss      {standing.loss:.6f}"
    at_work = standing.state not in ("paused", "finished")
    if standing.recent_rate_images_per_sec is not None and at_work:
        yield (
            f"  rate      {standing.recent_rate_images_per_sec:.2f} images/s in the last 5 minutes"
        )
    if standing.left_sec is not None:
        yield f"  left      {duration(standing.left_sec)}"
    if standing.then is not None:
        yield f"  paused    {standing.then}"


def _epoch(standing: Training) -> str:
    text = f"{standing.epoch} of {standing.num_epochs}"
    if standing.state == "finished":
        return text
    steps = f" of {standing.num_steps}" if standing.num_steps else ""
    return f"{text}, step {standing.step}{steps}"


def _step_lines(standing: Whole) -> Iterator[str]:
    for step in standing.steps:
        state = step.standing.state if step.standing else "not yet"
        detail = summarise(step.standing) if step.standing else ""
        yield f"  {step.folder:<15} {step.command:<8} {state:<8} {detail}".rstrip()
