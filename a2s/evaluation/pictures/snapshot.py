"""What a stage-2 run says of some images after an epoch: its corrected labels and its predictions.

Shape suffixes: H W an image's own size; N rows of the data's index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import U8
from a2s.data.images import MAX_PIXELS, BadImage, decode_mask, encode_png
from a2s.data.index import Index
from a2s.data.keys import decode_key
from a2s.data.open_files import Address
from a2s.data.results import changed_files, note_files
from a2s.errors import CheckpointError, DataError
from a2s.labels.store.generations import Generation
from a2s.labels.store.reader import resize
from a2s.models.predict import Picture, new_step, to_map
from a2s.models.saved import SavedNetwork
from a2s.storage.checkpoints import Commit, last_commit
from a2s.storage.files import atomic_write, read_json, write_json

LABEL, PREDICTION = ".label.png", ".prediction.png"
DONE = "snapshot.json"


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot folder holds; `without_label` and `without_prediction` are keys."""

    epoch: int
    generation: int
    keys: tuple[str, ...]
    without_label: tuple[str, ...] = ()
    without_prediction: tuple[str, ...] = ()


def snapshot(
    run: Path, *, data: Path, labels: Path, keys: Sequence[str], out: Path, epoch: int | None = None
) -> Snapshot:
    """Write `KEY.label.png` and `KEY.prediction.png` of a run's last commit, at own size.

    The label is what the epoch left (its rectified label, or while lambda is 1 that of `labels`),
    the prediction is by the weights that it left. `snapshot.json` comes last, and means that all is
    there: the same call again does nothing, however far the run has gone on since.

    Raises:
        CheckpointError: no commit, one in the middle of an epoch, or not of `epoch`.
        DataError: a key is not in `data`, or what was written is damaged and cannot be made again.
        LabelError: a label generation is damaged.
    """
    known = load(out)
    if known is not None and known.keys == tuple(keys) and epoch in (None, known.epoch):
        changed = changed_files(out)
        if not changed:
            return known
        at = last_commit(run)
        if at is None or (at.state["epoch"], at.state["step"]) != (known.epoch, 0):
            raise DataError(
                f"{changed[0]}: is not what was written, and {run} does not stand after epoch "
                f"{known.epoch} any more; restore it from a copy, or use another --out"
            )
    commit = _whole_epoch(run, epoch)
    index = Index.load(data)
    rows_K = index.rows_of(keys)
    for key, row in zip(keys, rows_K, strict=True):
        if row < 0:
            raise DataError(f"snapshot: {data} has no image with the key {key}")
    rows = [int(row) for row in rows_K]
    out.mkdir(parents=True, exist_ok=True)
    (out / DONE).unlink(missing_ok=True)
    generation = int(commit.state["generation"])
    no_label = _write_labels(out, rows, index, labels, run / "labels", generation)
    no_prediction = _write_predictions(out, rows, index, run)
    done = Snapshot(commit.state["epoch"], generation, tuple(keys), no_label, no_prediction)
    write_json(out / DONE, asdict(done))
    kinds = {LABEL: no_label, PREDICTION: no_prediction}
    pictures = [
        f"{decode_key(key)}{kind}"
        for kind, without in kinds.items()
        for key in keys
        if key not in without
    ]
    note_files(out, [*pictures, DONE])
    return done


def load(folder: Path) -> Snapshot | None:
    """Read what a finished snapshot folder holds, else None."""
    try:
        record: dict[str, Any] = read_json(folder / DONE)
        lists = ("keys", "without_label", "without_prediction")
        return Snapshot(
            int(record["epoch"]),
            int(record["generation"]),
            *(tuple(str(key) for key in record[name]) for name in lists),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _whole_epoch(run: Path, epoch: int | None) -> Commit:
    commit = last_commit(run)
    if commit is None:
        raise CheckpointError(f"snapshot: {run} has no commit yet; give the --out of stage2")
    if "generation" not in commit.state:
        raise CheckpointError(f"snapshot: {run} is not a run of stage2")
    at, step = commit.state["epoch"], commit.state["step"]
    if step:
        raise CheckpointError(
            f"snapshot: {run} stands at step {step} of epoch {at + 1}; repeat the stage2 command, "
            "it goes on to the end of the epoch"
        )
    if epoch not in (None, at):
        raise CheckpointError(
            f"snapshot: {run} stands after epoch {at}, not {epoch}, and keeps nothing older; train "
            "again into another folder, with a snapshot after every epoch"
        )
    return commit


def _write_labels(
    out: Path, rows: Sequence[int], index: Index, labels: Path, store: Path, number: int
) -> tuple[str, ...]:
    """Write the labels that there are; return the keys of images that have none."""
    generation = Generation.load(store, number) if number else None
    shards = None if generation else Index.load(labels)
    without = []
    for row in rows:
        key = index.key(row)
        height, width = int(index.height_N[row]), int(index.width_N[row])
        label_HW: U8 | None = None
        if generation is not None and generation.has_label_N[row]:
            label_HW = _bytes(resize(generation.read(row), height=height, width=width))
        elif shards is not None and (at := int(shards.rows_of([key])[0])) >= 0:
            try:
                label_HW = decode_mask(shards.read(at))
            except DataError:
                label_HW = None
        if label_HW is None:
            without.append(key)
        else:
            _write(out, key, LABEL, label_HW)
    return tuple(without)


def _write_predictions(out: Path, rows: Sequence[int], index: Index, run: Path) -> tuple[str, ...]:
    step = new_step(SavedNetwork.find(run), MAX_PIXELS)
    without = []
    for row in rows:
        shard = index.shards[int(index.shard_N[row])]
        address = Address(str(shard.path), int(index.offset_N[row]), int(index.size_N[row]))
        picture = Picture(index.key(row), address, shard.name, int(index.crc32_N[row]))
        (answer,) = step([picture])
        if isinstance(answer, BadImage):
            without.append(picture.key)
        else:
            _write(out, picture.key, PREDICTION, to_map(answer))
    return tuple(without)


def _bytes(label_HW: NDArray[np.float32]) -> U8:
    return np.rint(label_HW * 255).astype(np.uint8)


def _write(out: Path, key: str, suffix: str, map_HW: U8) -> None:
    path = out / f"{decode_key(key)}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, encode_png(map_HW))
