"""Images, their labels and quality as a dataset for torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from a2s.api.label_item import Label
from a2s.data.arrays import U8
from a2s.data.images import decode, resize_rgb
from a2s.data.index import Index
from a2s.labels.store.reader import resize


class LabelDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """(image, label, quality) of every image that has a label of enough quality.

    Shape: image float32 [3, H, W] RGB, label float32 [1, H, W], quality float32 [].
    Range: all 0..1; the quality is NaN for labels that stage 2 has corrected.
    """

    def __init__(
        self,
        read: Callable[[int], Label],
        label_rows: npt.NDArray[np.int64],
        *,
        images: Index,
        image_rows: npt.NDArray[np.int64],
        size: int | None,
        left_out: Mapping[str, int],
    ) -> None:
        """Pair label `label_rows[i]`, which `read` reads, with image `image_rows[i]`.

        With `size` both become squares of so many pixels. `left_out`: numbers of labels of the set
        that are not here, by reason (`no_image`, `rejected`, `low_quality`).
        """
        self.read = read
        self.label_rows = label_rows
        self.images = images
        self.image_rows = image_rows
        self.size = size
        self.left_out = dict(left_out)

    def __len__(self) -> int:
        return len(self.label_rows)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Read one image and its label.

        Raises:
            DataError: an image or label is damaged.
        """
        label = self.read(int(self.label_rows[number]))
        image_HW3: U8 = decode(self.images.read(int(self.image_rows[number])))
        mask_HW = label.mask.astype(np.float32) / np.float32(255)
        if self.size is not None:
            image_HW3 = resize_rgb(image_HW3, height=self.size, width=self.size)
            mask_HW = resize(mask_HW, height=self.size, width=self.size)
        image_3HW = torch.from_numpy(np.ascontiguousarray(image_HW3)).permute(2, 0, 1)
        quality = float("nan") if label.quality is None else label.quality
        return (
            image_3HW.float() / 255,
            torch.from_numpy(np.array(mask_HW))[None],
            torch.tensor(quality),
        )
