"""`a2s stage2`: train the detector, resume it, or say that nothing is left to do."""

from __future__ import annotations

import os
import shlex

from a2s.config.training import Stage2Config
from a2s.data.index import Index
from a2s.data.shards import shard_done
from a2s.parallel import launch, rank_main
from a2s.parallel.launch import check_start
from a2s.parallel.progress import say_next
from a2s.storage import checkpoints, run_folder
from a2s.storage.checkpoints import Commit
from a2s.training import pause
from a2s.training.preflight import training_inputs, untrained_lines


def run(config: Stage2Config) -> int:
    """Train on the ranks that the launcher started; return 0 when done or paused."""
    check_start()
    is_main = launch.launched_rank(os.environ) == 0
    words = ["--model", str(config.out), "IMAGES", "--out", f"preds/{config.out.name}"]
    predict = shlex.join(["a2s", "predict", *words])
    commit = checkpoints.last_commit(config.out)
    if commit is None or not _is_done(config, commit):
        from a2s.training.stage2 import train

        finished = rank_main.report_to_launcher(train)(config)
        if finished and is_main and (commit := checkpoints.last_commit(config.out)) is not None:
            wrote = f"{commit.folder} and {config.out}/rectified"
            generation = commit.state["generation"]
            print(f"stage2: wrote {wrote} (label generation {generation})")
            say_next(predict)
    elif is_main:
        # Nothing to train, which every rank knows without torch.
        index, labels = Index.load(config.data), Index.load(config.labels)
        inputs = training_inputs(config, index, labels)
        with run_folder.claim(config.out, command="stage2", config=config, inputs=inputs) as folder:
            then = pause.pending_label_command(config, commit.state)
            if commit.state["finished"] and then is None:
                checkpoints.verify(commit, checkpoints.RESULT)
                print(f"stage2: {config.out} is done ({config.epochs} epochs)")
                say_next(predict)
            else:
                then = then or pause.GO_ON
                pause.pause(folder, "stage2", commit.state, epochs=config.epochs, then=then)
    for line in untrained_lines(config) if is_main else ():
        print(f"stage2: {line}")
    return 0


def _is_done(config: Stage2Config, commit: Commit) -> bool:
    """Whether the last commit is all that this call asks for, final labels included."""
    finished: bool = commit.state["finished"]
    # Labels of later epochs do not matter to a call that asks for an earlier one.
    if pause.reached(commit, config.until_epoch) and (
        not finished or pause.pending_label_command(config, commit.state) is not None
    ):
        return True
    if not finished:
        return False
    rectified = config.out / "rectified"
    names = [shard.name for shard in Index.load(config.data).shards]
    return all(shard_done(rectified, name, settings=None) for name in names)
