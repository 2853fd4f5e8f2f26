"""Label reader of stage 2: label shards while lambda is 1, then generations; unlabelled images.

Shapes: H, W an image's own size; S side of the network's square input; N rows of the data's index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from PIL import Image

from a2s.data.images import RESIZE_FILTERS, decode_mask
from a2s.data.index import Index
from a2s.errors import DataError, LabelError
from a2s.labels.review import Decision
from a2s.labels.store.generations import Generation
from a2s.parallel import ranks
from a2s.parallel.shared_folder import gather_bytes, share_files
from a2s.storage import files
from a2s.storage.parsing import parse_json

UNLABELLED = "unlabelled.jsonl"
MISSING, UNREADABLE, DOUBTFUL = "no_label", "unreadable_label", "low_quality"
REJECTED = "rejected"
REASONS = (MISSING, UNREADABLE, DOUBTFUL, REJECTED)

Label = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


@dataclass
class LabelSource:
    """Callable that reads the label of a row in an epoch; safe in forked loader workers.

    `generation_by_epoch[e - 1]` is the generation that epoch e reads; 0 means the label shards.
    """

    labels: Index
    label_row_N: npt.NDArray[np.int64]
    store: Path
    image_size: int
    generation_by_epoch: Sequence[int]
    resize_filter: str = "bilinear"
    pinned: Mapping[int, bytes | None] = field(default_factory=dict)
    """Rows whose label is the same in all epochs: its PNG, or None for that of the shards."""
    _open: Generation | None = field(default=None, repr=False)

    def __call__(self, row: int, epoch: int) -> Label:
        """Read one label, not mirrored.

        Shape: float32[S, S]. Range: [0, 1].
        Raises: LabelError if the label cannot be read.
        """
        number = 0 if row in self.pinned else self.generation_by_epoch[epoch - 1]
        if number:
            # Workers persist across epochs, so open each generation on first use.
            if self._open is None or self._open.number != number:
                self._open = Generation.load(self.store, number)
            return self._open.read(row)
        fixed = self.pinned.get(row)
        mask_HW = decode_mask(fixed) if fixed else _decode(self.labels, int(self.label_row_N[row]))
        label_HW = mask_HW.astype(np.float32) / np.float32(255)
        size = self.image_size
        return resize(label_HW, height=size, width=size, resize_filter=self.resize_filter)

    def png(self, row: int) -> bytes:
        """The label with which a row starts: the reviewer's, else that of the shards.

        Raises: DataError if the shard is damaged.
        """
        return self.pinned.get(row) or self.labels.read(int(self.label_row_N[row]))


def pinned_labels(decisions: Mapping[str, Decision], index: Index) -> dict[int, bytes | None]:
    """Labels that no epoch changes, for `LabelSource`: those that a reviewer fixed or accepted."""
    kept = [one for one in decisions.values() if one.verdict != "rejected"]
    rows = index.rows_of([one.key for one in kept]).tolist()
    return {row: one.mask_png for row, one in zip(rows, kept, strict=True) if row >= 0}


def resize(label_HW: Label, *, height: int, width: int, resize_filter: str = "bilinear") -> Label:
    """Resize a label with one of `RESIZE_FILTERS`; all but `nearest` antialias when they shrink.

    Shape: float32[H, W] -> float32[height, width]. Range: [0, 1].
    """
    if label_HW.shape == (height, width):
        return label_HW
    image = Image.fromarray(label_HW).resize((width, height), RESIZE_FILTERS[resize_filter])
    # Bilinear weights sum to 1 only up to rounding; bicubic interpolation overshoots.
    return np.asarray(image, dtype=np.float32).clip(0, 1)


def labelled_rows(
    folder: Path,
    index: Index,
    labels: Index,
    label_row_N: npt.NDArray[np.int64],
    *,
    min_quality: float = 0.0,
    decisions: Mapping[str, Decision] | None = None,
) -> Bools:
    """Find the images with a usable label (collective); write the list of the others.

    Usable are labels that can be read, of at least `min_quality`. A reviewer who rejected, fixed or
    accepted a label knows better than its number.

    The list in the run folder is made once per run, so a resumed run has the same epoch plan.
    Shape: bool[N].
    Raises: LabelError if no image has one, or if `labels` contains images instead of labels.
    """
    with ranks.fail_together():
        # Images also decode as masks, and training on them would not fail.
        table = pq.read_schema(labels.folder / f"{labels.shards[0].name}.parquet")
        if "orientation" in table.names:
            raise LabelError(
                f"labels: {labels.folder} holds images, not labels; give --labels the --out of "
                "a2s label"
            )
        exists = (folder / UNLABELLED).exists()
    if not exists:
        _list_unlabelled(
            folder, index, labels, label_row_N, min_quality=min_quality, decisions=decisions or {}
        )
    with ranks.fail_together():
        return read_unlabelled(folder, index)


def _list_unlabelled(
    folder: Path,
    index: Index,
    labels: Index,
    label_row_N: npt.NDArray[np.int64],
    *,
    min_quality: float,
    decisions: Mapping[str, Decision],
) -> None:
    rank, world = ranks.rank(), ranks.world()
    with ranks.fail_together():
        lines, has_object = [], False
        quality_N = labels.column("quality") if min_quality > 0 else np.ones(len(labels))
        for row in np.array_split(np.arange(len(index)), world)[rank].tolist():
            reason, detail = MISSING, f"no such key in {labels.folder}"
            decision = decisions.get(index.key(row)) if decisions else None
            if decision is not None and decision.verdict == "fixed":
                has_object = True
                continue
            if decision is not None and decision.verdict == "rejected":
                reason, detail = REJECTED, f"by a reviewer, {decision.at}"
            elif label_row_N[row] >= 0:
                try:
                    mask_HW = _decode(labels, int(label_row_N[row]))
                except LabelError as error:
                    reason, detail = UNREADABLE, str(error)
                else:
                    quality = float(quality_N[label_row_N[row]])
                    if decision is not None or quality >= min_quality:
                        has_object |= bool(mask_HW.max() > 127 >= mask_HW.min())
                        continue
                    reason, detail = DOUBTFUL, f"quality {quality:.3f}, wanted {min_quality:g}"
            lines.append({"key": index.key(row), "reason": reason, "detail": detail})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    joined = b"".join(gather_bytes(text.encode()))
    have_object = gather_bytes(bytes([has_object]))
    with ranks.fail_together():
        if joined.count(b"\n") < len(index) and not any(map(any, have_object)):
            raise LabelError(
                f"labels: no label of {labels.folder} tells an object from its ground: in each all "
                "pixels are salient, or none is, so there is nothing to learn; do the images show "
                "objects? `a2s report` shows images and labels"
            )
        if ranks.is_main():
            files.atomic_write(folder / UNLABELLED, joined)
    share_files()


def read_unlabelled(folder: Path, index: Index) -> Bools:
    """Which images have a usable label, as the list in the run folder says.

    Shape: bool[N].
    Raises: LabelError when none has, or the list is damaged.
    """
    keep_N = np.ones(len(index), bool)
    if listed := _listed(folder):
        row_U = index.rows_of([line["key"] for line in listed])
        # A row of -1 would be that of another image, the last one.
        if (row_U < 0).any():
            raise _damaged_list(folder)
        keep_N[row_U] = False
    if not keep_N.any():
        raise LabelError(
            f"labels: none of the {len(index)} images has a usable label; {folder / UNLABELLED} "
            "tells why (are --data and --labels a pair?)"
        )
    return keep_N


def unreadable_labels(folder: Path) -> list[str]:
    """Keys of images whose label is damaged, from the list in the run folder."""
    return [line["key"] for line in _listed(folder) if line["reason"] == UNREADABLE]


def _listed(folder: Path) -> list[dict[str, str]]:
    """The lines of a run's list of images without a label."""
    try:
        *lines, rest = files.read_text(folder / UNLABELLED).split("\n")
        if rest:
            # It is written at once, so that half a line is damage.
            raise _damaged_list(folder)
        listed = [parse_json(line.encode()) for line in lines]
        if not all(isinstance(one["key"], str) and one["reason"] in REASONS for one in listed):
            raise _damaged_list(folder)
    except (ValueError, TypeError, KeyError):
        raise _damaged_list(folder) from None
    return listed


def _damaged_list(folder: Path) -> LabelError:
    return LabelError(
        f"{folder / UNLABELLED} is damaged: it is not the list with which the run began; use "
        "another --out, or put the file back"
    )


def _decode(labels: Index, label_row: int) -> npt.NDArray[np.uint8]:
    try:
        return decode_mask(labels.read(label_row))
    except DataError as error:
        raise LabelError(f"labels: key {labels.key(label_row)}: {error}") from error
