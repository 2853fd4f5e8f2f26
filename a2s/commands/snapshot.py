"""`a2s snapshot`: save stage 2's labels and predictions of a few images, for figures 7 and 10.

    a2s stage2 … --out runs/s2
    a2s snapshot --model runs/s2 --data data/x --labels labels/x --out snapshots/s2-25

A finished snapshot does not change when the run continues.
"""

from __future__ import annotations

from a2s.config.commands import SnapshotConfig
from a2s.data.index import Index
from a2s.data.origin import refuse_other_images
from a2s.evaluation.pictures.cells import choose
from a2s.storage import run_folder


def run(config: SnapshotConfig) -> int:
    """Write labels and predictions of the chosen images, unless that is done already.

    Raises:
        CheckpointError: the run is not at the end of the epoch that was asked for.
        ConfigError: the folder was made with other settings, data or labels.
        DataError: an unknown key, or the labels were made of other images.
    """
    from a2s.evaluation.pictures.snapshot import snapshot

    index, labels = Index.load(config.data), Index.load(config.labels)
    refuse_other_images(labels, index, command="snapshot")
    inputs = {"data": index.fingerprint, "labels": labels.fingerprint}
    with run_folder.claim(config.out, command="snapshot", config=config, inputs=inputs):
        keys = choose(index.keys.to_pylist(), num_images=config.images, given=config.keys)
        done = snapshot(
            config.model,
            data=config.data,
            labels=config.labels,
            keys=keys,
            out=config.out,
            epoch=config.epoch,
        )
    lacking = {"label": done.without_label, "prediction": done.without_prediction}
    for what, without in lacking.items():
        if without:
            print(f"snapshot: {len(without)} images have no {what}: {', '.join(without)}")
    print(f"snapshot: {len(keys)} images after epoch {done.epoch} in {config.out}")
    return 0
