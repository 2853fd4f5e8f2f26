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
from a2s.data.arrays import U8
from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.errors import DataError, LabelError

if TYPE_CHECKING:
    from a2s.api.label_dataset import LabelDataset

_ADDRESS = ("key", "offset", "size", "crc32")
"""Columns that say where a label is; all others are numbers about it."""


class LabelSet:
    """Labels in the folder of `a2s label`, or in `rectified/` of a stage-2 run.

    Iterable, with a length, and indexable by number or key. A label is read when it is asked for.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open a finished set.

        Raises:
            DataError: there are no shards, or not all are finished.
            LabelError: they hold images, not labels.
        """
        self.folder = Path(folder)
        self.index = Index.load(self.folder)
        first = self.folder / f"{self.index.shards[0].name}.parquet"
        names = pq.read_schema(first).names
        if "orientation" in names:
            raise LabelError(f"labels: {self.folder} holds images, not labels (a2s label)")
        self._columns: dict[str, npt.NDArray[Any]] = {
            name: self.index.column(name) for name in names if name not in _ADDRESS
        }

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
        mask_HW: U8 = decode_mask(self.index.read(row))
        numbers = {name: column[row].item() for name, column in self._columns.items()}
        return Label(self.index.key(row), mask_HW, numbers)

    def keys(self) -> list[str]:
        """Keys of all labels, in their order."""
        keys: list[str] = self.index.keys.to_pylist()
        return keys

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A quality number of all labels, without reading them. Shape: one per label.

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
        their own size. Labels of less than `min_quality` are left out.

        Raises:
            DataError: the shards are not finished, or have none of these images.
            LabelError: no label is good enough, or the set has no quality.
        """
        from a2s.api.label_dataset import LabelDataset

        images = Index.load(Path(data))
        image_row_N = images.rows_of(self.index.keys)
        usable_N = image_row_N >= 0
        if not usable_N.any():
            raise DataError(f"labels: {data} has none of the images of {self.folder}")
        if min_quality > 0:
            if "quality" not in self._columns:
                raise LabelError(
                    f"labels: {self.folder} has no quality numbers; leave min_quality out"
                )
            usable_N &= self._columns["quality"].astype(np.float64) >= min_quality
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
        )

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
