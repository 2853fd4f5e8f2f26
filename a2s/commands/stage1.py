"""`a2s stage1`: train the activation network, resume it, or say that nothing is left to do."""

from __future__ import annotations

import os
import shlex

from a2s.config.training import Stage1Config
from a2s.data.index import Index
from a2s.parallel import launch, rank_main
from a2s.parallel.launch import check_start
from a2s.parallel.progress import say_next
from a2s.storage import checkpoints, run_folder
from a2s.training import pause
from a2s.training.preflight import training_inputs, untrained_lines


def run(config: Stage1Config) -> int:
    """Train on the ranks that the launcher started; return 0 when done or paused."""
    check_start()
    is_main = launch.launched_rank(os.environ) == 0
    words = ["--model", config.out, "--data", config.data, "--out", f"labels/{config.out.name}"]
    label = shlex.join(["a2s", "label", *map(str, words)])
    commit = checkpoints.last_commit(config.out)
    reached = pause.reached(commit, config.until_epoch)
    if commit is None or not (commit.state["finished"] or reached):
        from a2s.training.stage1 import train

        finished = rank_main.report_to_launcher(train)(config)
        if finished and is_main and (commit := checkpoints.last_commit(config.out)) is not None:
            print(f"stage1: wrote {commit.folder}")
            say_next(label)
    elif is_main:
        # Nothing to train, which every rank knows without torch.
        labels = Index.load(config.labels) if config.labels else None
        inputs = training_inputs(config, Index.load(config.data), labels)
        with run_folder.claim(config.out, command="stage1", config=config, inputs=inputs) as folder:
            if commit.state["finished"]:
                checkpoints.verify(commit, checkpoints.RESULT)
                print(f"stage1: {config.out} is done ({config.epochs} epochs)")
                say_next(label)
            else:
                pause.pause(folder, "stage1", commit.state, epochs=config.epochs)
    for line in untrained_lines(config) if is_main else ():
        print(f"stage1: {line}")
    return 0
