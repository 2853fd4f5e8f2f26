"""Where a call of a training stage ends before the last epoch: `--until-epoch`, or missing labels.

Such a call exits with 0. The next call resumes from the last commit, with the same result as one
call would give. Imports no torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from a2s.config.training import Stage2Config
from a2s.labels.correction.schedule import LabelSchedule
from a2s.storage.checkpoints import Commit
from a2s.storage.run_folder import RunDir

PAUSED = "paused"
"""Event in `metrics.jsonl` by which `a2s status` knows that the run is paused."""
GO_ON = "the same command with a larger --until-epoch, or without it, goes on"


def reached(commit: Commit | None, until_epoch: int | None) -> bool:
    """Whether the last commit is that of epoch `until_epoch`, or a later one."""
    return commit is not None and until_epoch is not None and commit.state["epoch"] >= until_epoch


def last_epoch(epochs: int, *, until_epoch: int | None) -> int:
    """The epoch after whose commit a call ends."""
    return epochs if until_epoch is None else min(epochs, until_epoch)


def pause(
    folder: RunDir, name: str, state: Mapping[str, Any], *, epochs: int, then: str = GO_ON
) -> None:
    """Log and print after which epoch training stops for now, and what continues it."""
    folder.log(event=PAUSED, epoch=state["epoch"], then=then)
    print(f"{name}: {folder.path} stops after epoch {state['epoch']} of {epochs}; {then}")


def schedule_of(config: Stage2Config) -> LabelSchedule:
    """The label schedule of a stage-2 run."""
    return LabelSchedule.of(
        config.epochs, rule=config.rectify, lam=config.lam, warm_epochs=config.warm_epochs
    )


def pending_label_command(config: Stage2Config, state: Mapping[str, Any]) -> str | None:
    """The command that has to make labels before the next epoch, as a `next: …` text, or None.

    Only a run with `rectify: hma` ever waits: its epochs write no labels themselves. `state` is
    that of the last commit.
    """
    if not schedule_of(config).lacks_labels(state):
        return None
    paths = {"--run": config.out, "--data": config.data, "--labels": config.labels}
    command = shlex.join(["a2s", "hma", *(str(word) for pair in paths.items() for word in pair)])
    return f"next: {command}, and then this command again"
