"""Training that ends before its last epoch: as it was asked to, or to wait for labels.

The call has done what it was for, so it ends well; another one goes on from the last commit, and
what comes out is the same as without the pause.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a2s.storage.checkpoints import Commit
from a2s.storage.run_folder import RunDir

PAUSED = "paused"
"""The event in `metrics.jsonl` by which `a2s status` knows that nobody works on it."""
GO_ON = "the same command with a larger --until-epoch, or without it, goes on"


def reached(commit: Commit | None, until_epoch: int | None) -> bool:
    """Whether the last commit is that of epoch `until_epoch`, or a later one."""
    return commit is not None and until_epoch is not None and commit.state["epoch"] >= until_epoch


def last_epoch(epochs: int, *, until_epoch: int | None) -> int:
    """The epoch after whose commit a call ends; the others are left to later calls."""
    return epochs if until_epoch is None else min(epochs, until_epoch)


def pause(
    run: RunDir, job: str, state: Mapping[str, Any], *, epochs: int, then: str = GO_ON
) -> None:
    """Log and say after which epoch training ends for now, and how it goes on."""
    run.log(event=PAUSED, epoch=state["epoch"], then=then)
    print(f"{job}: {run.path} stops after epoch {state['epoch']} of {epochs}; {then}")
