"""Stage 1: train the activation network on unlabelled images (Sec. III-A).

The four blocks train; the encoder is frozen, and its features go through a cache, unless
`encoder_mode` says otherwise. The loop is the same for one rank and for many: every sum of the loss
is taken over all ranks before it is divided, so the gradients do not depend on their number. No
step waits for the device: what the host must know of it is read at log lines and before commits.
"""

from __future__ import annotations

import os

from a2s.config.commands import Stage1Config
from a2s.data.index import Index
from a2s.parallel import ranks
from a2s.storage import checkpoints, run_folder
from a2s.training import pause
from a2s.training.stage1 import _next, _train


def run(config: Stage1Config) -> int:
    """Train, or continue, or say that nothing is left to do."""
    ranks.check_launch(os.environ)
    commit = checkpoints.last_commit(config.out)
    reached = pause.reached(commit, config.until_epoch)
    if commit is None or not (commit.state["finished"] or reached):
        return ranks.report_to_launcher(_train)(config)
    # Known without torch, and by every rank on its own.
    if ranks.launched_rank(os.environ) == 0:
        inputs = {"data": Index.load(config.data).fingerprint}
        with run_folder.claim(
            config.out, command="stage1", config=config, inputs=inputs
        ) as run_dir:
            if commit.state["finished"]:
                print(f"stage1: {config.out} is done ({config.epochs} epochs). {_next(config)}")
            else:
                pause.pause(run_dir, "stage1", commit.state, epochs=config.epochs)
    return 0
