"""Stage 2: train the detector on pseudo labels, and let it correct them on the way (Sec. III-B).

B images of one rank, G of the global batch, M of one forward pass; S side of the network's input.
Labels live in image coordinates: a prediction of a mirrored image is turned back before it is used.
No step waits for the device: what the host must know is read at log lines and before commits.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from a2s.config.commands import Stage2Config
from a2s.data.index import Index
from a2s.parallel import ranks
from a2s.storage import checkpoints, run_folder
from a2s.training import pause, turns
from a2s.training.stage2 import _next, _train

if TYPE_CHECKING:
    pass


def run(config: Stage2Config) -> int:
    """Train, or continue, or say that nothing is left to do."""
    ranks.check_launch(os.environ)
    commit = checkpoints.last_commit(config.out)
    # Whoever asked for an epoch that is there need not hear that a later one lacks labels.
    reached = pause.reached(commit, config.until_epoch)
    if commit is None or not (commit.state["finished"] or reached):
        return ranks.report_to_launcher(_train)(config)
    index, labels = Index.load(config.data), Index.load(config.labels)
    manifests = [config.out / "rectified" / f"{shard.name}.json" for shard in index.shards]
    paused = reached and (not commit.state["finished"] or turns.lacks_labels(config, commit.state))
    if not paused and not all(manifest.exists() for manifest in manifests):
        return ranks.report_to_launcher(_train)(config)
    # Known without torch, and by every rank on its own.
    if ranks.launched_rank(os.environ) == 0:
        inputs = {"data": index.fingerprint, "labels": labels.fingerprint}
        with run_folder.claim(
            config.out, command="stage2", config=config, inputs=inputs
        ) as run_dir:
            if paused:
                turns.pause(config, run_dir, commit.state)
            else:
                print(f"stage2: {config.out} is done ({config.epochs} epochs). {_next(config)}")
    return 0
