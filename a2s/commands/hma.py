"""`a2s hma`: update the labels of a stage-2 run with `rectify: hma` between two epochs.

    a2s stage2 … --rectify hma      trains until it needs new labels
    a2s hma --run runs/s2 --data data/x --labels labels/x
    a2s stage2 … --rectify hma      continues with them

The command passes over the shards, in this process or with Ray. It writes the row files, then the
manifests of both stores, then a commit with the same weights and the new label generation. Without
that commit the run is unchanged and the same command resumes; after it there is nothing to do until
the next epoch has ended.
"""

from __future__ import annotations

import time

from a2s.config.commands import HmaConfig
from a2s.data.index import Index
from a2s.data.origin import refuse_other_images
from a2s.errors import ConfigError
from a2s.labels.correction.schedule import generation_after
from a2s.paper.hma.generation import make_generation, next_command, read_trained
from a2s.storage import checkpoints, lock, run_folder
from a2s.storage.failures import FILE_NAME


def run(config: HmaConfig) -> int:
    """Make the labels of the next epoch, unless that is done; return 3 if too many images failed.

    Raises:
        ConfigError: the folder is not that of such a run or is in use, or the data or labels are
            not those of the run.
        DataError: a data shard is damaged, or the labels were made of other images.
    """
    started, run = time.monotonic(), config.out.resolve()
    settings = run_folder.recorded_settings(run) or {}
    if settings.get("command") != "stage2" or settings.get("rectify") != "hma":
        raise ConfigError(
            f"hma: {config.out} is not a run of a2s stage2 with rectify hma; give its --out"
        )
    trained = read_trained(run, settings)
    index, labels = Index.load(config.data.resolve()), Index.load(config.labels.resolve())
    for name, given in {"data": index, "labels": labels}.items():
        if trained.inputs.get(name) != given.fingerprint:
            raise ConfigError(f"hma: --{name} {given.folder} is not what {config.out} trains on")
    refuse_other_images(labels, index, command="hma")
    with lock.hold(run, "hma"):
        commit = checkpoints.last_commit(run)
        if commit is None:
            raise ConfigError(f"hma: {config.out} has no commit yet; a2s stage2 comes first")
        number = generation_after(commit.state["epoch"], warm_epochs=trained.warm_epochs)
        at = f"{config.out}, epoch {commit.state['epoch']}"
        if number == commit.state["generation"]:
            print(
                f"hma: nothing to do at {at}: the labels that come next are there. "
                f"{next_command(config)}"
            )
            return 0
        made = make_generation(
            config, run, commit, number, index, labels, trained=trained, started=started
        )
    if made.too_many:
        print(
            f"hma: {made.num_failed:,} of {made.num_images:,} images failed, over the limit of "
            f"{config.max_failure_rate:.2%}, so {config.out} is unchanged: {run / FILE_NAME}; the "
            "same command tries them again"
        )
        return 3
    if made.num_failed:
        print(
            f"hma: {made.num_failed:,} of {made.num_images:,} images failed and keep their labels: "
            f"{run / FILE_NAME}"
        )
    print(
        f"hma: {at}: label generation {number} of {made.num_images:,} images. "
        f"{next_command(config)}"
    )
    return 0
