"""Whose turn it is in a run of stage 2: training's, or that of the command that makes its labels.

With `rectify: hma` they alternate: an epoch, `a2s hma`, the next epoch, until the labels of the
last one are made. The last commit says who is next, so both may be killed and repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from a2s.config.commands import Stage2Config
from a2s.errors import LabelError
from a2s.labels.correction.schedule import label_schedule
from a2s.storage.run_folder import RunDir
from a2s.training.pause import GO_ON
from a2s.training.pause import pause as _pause

State = Mapping[str, Any]
"""That of a commit, or of a run before its first one."""


def schedule(config: Stage2Config) -> tuple[list[float], list[int]]:
    """`label_schedule` of these settings."""
    return label_schedule(
        config.epochs, rule=config.rectify, lam=config.lam, warm_epochs=config.warm_epochs
    )


def lacks_labels(config: Stage2Config, state: State) -> bool:
    """Whether the labels that follow the last epoch have still to be made by `a2s hma`."""
    return bool(state["generation"] != schedule(config)[1][state["epoch"]])


def check_labels(config: Stage2Config, state: State) -> None:
    """Refuse to train without the labels that the next epoch reads.

    Raises:
        LabelError: they are not made yet; it names the command that makes them.
    """
    if lacks_labels(config, state):
        number = schedule(config)[1][state["epoch"]]
        raise LabelError(
            f"stage2: {config.out} waits for label generation {number}; {_hma(config)}"
        )


def pause(config: Stage2Config, run: RunDir, state: State) -> None:
    """Log and say after which epoch training ends for now, and whose turn it is."""
    then = _hma(config) if lacks_labels(config, state) else GO_ON
    _pause(run, "stage2", state, epochs=config.epochs, then=then)


def _hma(config: Stage2Config) -> str:
    command = f"a2s hma --run {config.out} --data {config.data} --labels {config.labels}"
    return f"next: {command}, and then this command again"
