"""Status of `a2s run`, and of commands that write no manifests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from a2s.storage.status.pace import State
from a2s.storage.status.shards import ShardsStatus
from a2s.storage.status.training import TrainingStatus


@dataclass(frozen=True)
class CommandStatus:
    """Status of a command that only shows whether it has finished; command "" is unknown."""

    command: str
    state: State
    silent_sec: float | None = None
    problems: list[str] = field(default_factory=list)


StepStatus = ShardsStatus | TrainingStatus | CommandStatus


@dataclass(frozen=True)
class Step:
    """One step of a pipeline and its folder; status None means that it has not started."""

    folder: str
    command: str
    status: StepStatus | None


@dataclass(frozen=True)
class PipelineStatus:
    """Status of `a2s run`."""

    command: str
    state: State
    steps_done: int
    steps: list[Step]
    problems: list[str] = field(default_factory=list)


Status = StepStatus | PipelineStatus


def pipeline_status(steps: Sequence[Step], *, problems: Sequence[str] = ()) -> PipelineStatus:
    """Summarise the steps; the run is stalled if one of its unfinished steps is."""
    states = [step.status.state if step.status else None for step in steps]
    done = states.count("finished")
    started = [state for state in states if state not in (None, "empty")]
    unfinished: list[State] = [state for state in states if state and state != "finished"]
    state: State = "finished" if done == len(states) else "running" if started else "started"
    if "stalled" in unfinished:
        state = "stalled"
    return PipelineStatus("run", state, done, list(steps), list(problems))
