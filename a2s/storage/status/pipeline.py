"""How far a run of all commands is, and the commands that leave no manifests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from a2s.storage.status.pace import State
from a2s.storage.status.shards import Shards
from a2s.storage.status.training import Training


@dataclass(frozen=True)
class Plain:
    """A command that shows whether it is through, and no more; "" is a command not yet known."""

    command: str
    state: State
    silent_sec: float | None = None
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One folder of a run; without a status it has not begun."""

    folder: str
    command: str
    status: Shards | Training | Plain | None


@dataclass(frozen=True)
class Whole:
    """How far `a2s run` is."""

    command: str
    state: State
    steps_done: int
    steps: list[Step]
    problems: list[str] = field(default_factory=list)


Status = Shards | Training | Plain | Whole


def pipeline_status(steps: Sequence[Step], *, problems: Sequence[str] = ()) -> Whole:
    """Sum up the steps: the run is where its first unfinished step is."""
    states = [step.status.state if step.status else None for step in steps]
    done = states.count("finished")
    begun = [state for state in states if state not in (None, "empty")]
    unfinished: list[State] = [state for state in states if state and state != "finished"]
    state: State = "finished" if done == len(states) else "running" if begun else "started"
    if "stalled" in unfinished:
        state = "stalled"
    return Whole("run", state, done, list(steps), list(problems))
