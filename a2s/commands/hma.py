"""The labels of the next epoch, from the model that stage 2 has committed (`rectify: hma`).

    a2s stage2 … --rectify hma      trains until labels are wanted
    a2s hma --run runs/s2 --data data/x --labels labels/x
    a2s stage2 … --rectify hma      goes on with them

A pass over the shards, in this process or by Ray. Row files come first, then the manifests of both
stores, then a commit that names the same weights and the new generation: before it the run is what
it was, and the same command resumes; after it the command has nothing to do until the next epoch.
"""

from __future__ import annotations

import time

from a2s.config.commands import HmaConfig
from a2s.data.index import Index
from a2s.errors import ConfigError
from a2s.labels.correction.schedule import generation_after
from a2s.paper.hma.generation import _make_generation, _next
from a2s.storage import checkpoints, lock, run_folder


def run(config: HmaConfig) -> int:
    """Make the labels that the next epoch of a run reads, unless they are there.

    Raises:
        ConfigError: it is not the folder of such a run, or is in use, or these are not its data and
            labels.
        DataError: an image cannot be decoded.
    """
    started, run = time.monotonic(), config.out.resolve()
    if (
        run_folder.recorded(run, "command") != "stage2"
        or run_folder.recorded(run, "rectify") != "hma"
    ):
        raise ConfigError(
            f"hma: {config.out} is not a run of a2s stage2 with rectify hma; give its --out"
        )
    index, labels = Index.load(config.data.resolve()), Index.load(config.labels.resolve())
    for name, given in {"data": index, "labels": labels}.items():
        if run_folder.recorded(run, "inputs", name) != given.fingerprint:
            raise ConfigError(f"hma: --{name} {given.folder} is not what {config.out} trains on")
    with lock.hold(run, "hma"):
        commit = checkpoints.last_commit(run)
        if commit is None:
            raise ConfigError(f"hma: {config.out} has no commit yet; a2s stage2 comes first")
        warm_epochs = run_folder.recorded(run, "warm_epochs")
        number = generation_after(commit.state["epoch"], warm_epochs=warm_epochs)
        at = f"{config.out}, epoch {commit.state['epoch']}"
        if number == commit.state["generation"]:
            print(
                f"hma: nothing to do at {at}: the labels that come next are there. {_next(config)}"
            )
            return 0
        num_images = _make_generation(config, run, commit, number, index, labels, started=started)
    print(f"hma: {at}: label generation {number} of {num_images:,} images. {_next(config)}")
    return 0
