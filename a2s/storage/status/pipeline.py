"""Progress of `a2s run`, and of commands without manifests. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from a2s.storage.status.pace import State, Stop
from a2s.storage.status.shards import ShardsStatus
from a2s.storage.status.training import TrainingStatus


@dataclass(frozen=True)
class CommandStatus:
    """Status of a command of which only the end is visible; command "": not known yet."""

    command: str
    state: State
    silent_sec: float | None = None
    problems: list[str] = field(default_factory=list)
    stopped: Stop | None = None


StepStatus = ShardsStatus | TrainingStatus | CommandStatus


@dataclass(frozen=True)
class Step:
    """One step of a run with its folder; status None: not started."""

    folder: str
    command: str
    status: StepStatus | None


@dataclass(frozen=True)
class PipelineStatus:
    """Progress of `a2s run`."""

    command: str
    state: State
    steps_done: int
    steps: list[Step]
    problems: list[str] = field(default_factory=list)
    stopped: Stop | None = None


Status = StepStatus | PipelineStatus


def pipeline_status(steps: Sequence[Step], *, problems: Sequence[str] = ()) -> PipelineStatus:
    """Combine the status of all steps to that of the run."""
    states = [step.status.state if step.status else None for step in steps]
    done = states.count("finished")
    begun = [state for state in states if state not in (None, "empty")]
    unfinished: list[State] = [state for state in states if state and state != "finished"]
    state: State = "finished" if done == len(states) else "running" if begun else "started"
    if "stalled" in unfinished:
        state = "stalled"
    return PipelineStatus("run", state, done, list(steps), list(problems))
