"""Trackers of Accelerate (TensorBoard, W&B, MLflow), which show a run's log elsewhere as well."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from a2s.errors import ConfigError
from a2s.parallel import ranks


def start_trackers(
    accelerator: ranks.Accelerator, name: str, settings: Mapping[str, object]
) -> None:
    """Begin a run of the trackers that `start` was given, with settings to find it by.

    Raises:
        ConfigError: on all ranks; a tracker cannot begin, because nobody is logged in to its
            server, or the server cannot be reached.
    """
    # Every tracker takes numbers and texts.
    values = {
        name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
        for name, value in settings.items()
    }
    folder = str(accelerator.project_dir)
    with ranks.fail_together():
        try:
            os.makedirs(folder, exist_ok=True)
            # MLflow finds its server, or its folder, by its own variables.
            accelerator.init_trackers(name, config=values, init_kwargs={"wandb": {"dir": folder}})
        except Exception as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"tracker: it cannot begin ({why}); set it up as its documents say, or leave out "
                "--tracker (metrics.jsonl is always written)"
            ) from error
