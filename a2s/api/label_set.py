"""Labels of a finished set: an iterable, and a dataset for torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from a2s.api.label_item import Label
from a2s.api.readable import readable
from a2s.data.arrays import U8
from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.data.origin import IMAGE_CRC32, refuse_other_images
from a2s.errors import DataError, LabelError
from a2s.labels.review import read_decisions

if TYPE_CHECKING:
    from a2s.api.label_dataset import LabelDataset

_NO_NUMBERS = ("key", "offset", "size", "crc32", IMAGE_CRC32)
"""Columns that say where a label is, and of which image; all others are numbers about it."""


class LabelSet:
    """Labels in the folder of `a2s label`, or in `rectified/` of a stage-2 run.

    Iterable, with a length, and indexable by number or key. A label is read when it is asked for.
    The decisions of `a2s review` and `import-masks` hold as they were when the set was opened: a
    fixed label has the mask that was drawn.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a finished set, also by the URL of its folder.

        Raises:
            DataError: there are no shards, not all are finished, or a decision is damaged.
            LabelError: they hold images, not labels.
        """
        self.folder = readable(folder)
        self.index = Index.load(self.folder)
        first = self.folder / f"{self.index.shards[0].name}.parquet"
        names = pq.read_schema(first).names
        if "orientation" in names:
            raise LabelError(f"labels: {self.folder} holds images, not labels (a2s label)")
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: self.index.column(name) for name in names if name not in _NO_NUMBERS
        }
        self._decisions = read_decisions(self.folder, self.index)

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[Label]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, which: int | str) -> Label:
        """Read a label by its number or its key.

        Raises:
            IndexError, KeyError: there is no such label.
            DataError: its shard is damaged.
            StorageError: its shard cannot be read.
        """
        if isinstance(which, str):
            (row,) = self.index.rows_of([which]).tolist()
            if row < 0:
                raise KeyError(which)
        else:
            row = range(len(self))[which]
        key = self.index.key(row)
        decision = self._decisions.get(key)
        if decision is not None and decision.mask_png is not None:
            # The numbers are about another mask.
            return Label(key, decode_mask(decision.mask_png), {}, decision.verdict)
        mask_HW: U8 = decode_mask(self.index.read(row))
        numbers = {name: column[row].item() for name, column in self._columns.items()}
        return Label(key, mask_HW, numbers, "none" if decision is None else decision.verdict)

    def keys(self) -> list[str]:
        """Keys of all labels, in their order."""
        keys: list[str] = self.index.keys.to_pylist()
        return keys

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A quality number of all labels, without reading them. Shape: one per label.

        Of labels that a person has fixed it is the number of the mask before.

        Raises:
            KeyError: the set has no such number.
        """
        return self._columns[name]

    def dataset(
        self,
        data: str | os.PathLike[str],
        *,
        size: int | None = None,
        min_quality: float = 0.0,
    ) -> LabelDataset:
        """The labels with their images, as a `torch.utils.data.Dataset`.

        `data` is the folder of shards that the labels were made of. With `size` images and labels
        become squares of so many pixels, so that a `DataLoader` can stack them; otherwise they keep
        their own size. Labels that a person rejected are left out, and those of less than
        `min_quality`, unless a person accepted or fixed them; and labels whose image `data` does
        not have. `left_out` of the data set says how many.

        Raises:
            DataError: the shards are not finished, or have none of these images, or other ones.
            LabelError: no label is good enough, all were rejected, or the set has no quality.
        """
        from a2s.api.label_dataset import LabelDataset

        images = Index.load(readable(data))
        refuse_other_images(self.index, images, command="labels")
        image_row_N = images.rows_of(self.index.keys)
        usable_N = image_row_N >= 0
        if not usable_N.any():
            raise DataError(f"labels: {data} has none of the images of {self.folder}")
        left_out = {"no_image": int((~usable_N).sum())}
        rejected_N, kept_N = self._decided("rejected"), self._decided("accepted", "fixed")
        left_out["rejected"] = int((usable_N & rejected_N).sum())
        usable_N &= ~rejected_N
        if not usable_N.any():
            raise LabelError(f"labels: every label of {self.folder} was rejected in a2s review")
        if min_quality > 0:
            if "quality" not in self._columns:
                raise LabelError(
                    f"labels: {self.folder} has no quality numbers; leave min_quality out"
                )
            good_N = self._columns["quality"].astype(np.float64) >= min_quality
            left_out["low_quality"] = int((usable_N & ~(good_N | kept_N)).sum())
            usable_N &= good_N | kept_N
            if not usable_N.any():
                raise LabelError(
                    f"labels: no label of {self.folder} has a quality of {min_quality:g} or more"
                )
        label_rows = np.flatnonzero(usable_N)
        return LabelDataset(
            self.__getitem__,
            label_rows,
            images=images,
            image_rows=image_row_N[label_rows],
            size=size,
            left_out={reason: count for reason, count in left_out.items() if count},
        )

    def _decided(self, *verdicts: str) -> npt.NDArray[np.bool_]:
        """Which labels a person decided about in one of these ways. Shape: one per label."""
        keys = [key for key, one in self._decisions.items() if one.verdict in verdicts]
        decided_N = np.zeros(len(self), np.bool_)
        decided_N[self.index.rows_of(keys)] = True
        return decided_N

    def export(
        self,
        data: str | os.PathLike[str],
        out: str | os.PathLike[str],
        *,
        format: str = "coco",
        **settings: Any,
    ) -> Path:
        """Write the labels in the format of another program (`a2s export`) and return the folder.

        `data` is the folder of shards that the labels were made of. Further settings are those of
        the command, such as `instances=True`.

        Raises:
            ConfigError: a setting or the output folder is wrong.
            DataError: labels or data are not finished, or too many labels failed.
        """
        from a2s.api.command import run_command

        job = {"labels": self.folder, "data": data, "out": out, "format": format, **settings}
        run_command("export", job)
        return Path(out)
