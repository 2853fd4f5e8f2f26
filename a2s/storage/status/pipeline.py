"""Status of `a2s run`, and of commands that write no manifests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from a2s.storage.status.pace import State
from a2s.storage.status.shards import Shards
from a2s.storage.status.training import Training


@dataclass(frozen=True)
class Plain:
    """Status of a command that only shows whether it has finished; command "" is unknown."""

    command: str
    state: State
    silent_sec: float | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One step of a pipeline and its folder; status None means that it has not started."""

    folder: str
    command: str
    status: Shards | Training | Plain | None


@dataclass(frozen=True)
class Whole:
    """Status of `a2s run`."""

    command: str
    state: State
    steps_done: int
    steps: list[Step]
    problems: list[str] = field(default_factory=list)


Status = Shards | Training | Plain | Whole


def pipeline_status(steps: Sequence[Step], *, problems: Sequence[str] = ()) -> Whole:
    """Summarise the steps; the run is stalled if one of its unfinished steps is."""
    states = [step.status.state if step.status else None for step in steps]
    done = states.count("finished")
    started = [state for state in states if state not in (None, "empty")]
    unfinished: list[State] = [state for state in states if state and state != "finished"]
    state: State = "finished" if done == len(states) else "running" if started else "started"
    if "stalled" in unfinished:
        state = "stalled"
    return Whole("run", state, done, list(steps), list(problems))
