"""Features of the frozen encoder in the memory of a GPU, computed once per (image, flip).

There they cost one gather per batch; reading them from a file costs more than encoding the image
again. What is beyond the budget is encoded again, rounded to the same dtype and in batches of the
same size, so the budget changes the speed and never a result. L is the length of E3, E4, E5 of an
image, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from a2s.data.transforms import flip_where
from a2s.errors import DataError
from a2s.training.features.file_cache import Encode, FeatureCache, feature_shapes

CHUNK = 8
"""Batch size of the encoder, always exactly this many images."""


def open_cache(
    device: torch.device, folder: Path | None, *, made_from: Mapping[str, str], **shape: Any
) -> FeatureCache | GpuFeatureCache:
    """The cache for training on `device`: in a GPU's memory, else in a file in `folder`.

    `made_from` is what decides a file's features, `shape` what both caches want to know.
    """
    if device.type == "cuda":
        return GpuFeatureCache(device, **shape)
    return FeatureCache(folder, made_from=made_from, **shape)


class GpuFeatureCache:
    """The features of `num_images` images and their mirror images, within a budget."""

    temporary = False
    full = False

    def __init__(
        self,
        device: torch.device,
        *,
        num_images: int,
        image_size: int,
        channels: Sequence[int],
        dtype: torch.dtype,
        budget_bytes: int,
    ) -> None:
        """`channels` are those of E3, E4, E5; of the memory that is free half is left alone."""
        self.shapes = feature_shapes(image_size, channels)
        self.lengths = [math.prod(shape) for shape in self.shapes]
        self.slot_bytes = sum(self.lengths) * dtype.itemsize
        self.num_slots = 2 * num_images
        if device.type == "cuda":
            budget_bytes = min(budget_bytes, torch.cuda.mem_get_info(device)[0] // 2)
        self.capacity = min(self.num_slots, budget_bytes // self.slot_bytes)
        self.device = device
        # At least one slot, so that a gather has something to gather from.
        rows = max(1, self.capacity)
        self._store_NL = torch.empty(rows, sum(self.lengths), dtype=dtype, device=device)
        # The loader's processes look here whether an image must be decoded.
        self._present = torch.zeros(rows, dtype=torch.bool)
        self._present.share_memory_()  # type: ignore[no-untyped-call]
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._largest = torch.zeros((), device=device)

    def describe(self) -> str:
        """Describe size and what does not fit, in one sentence."""
        gib = self.capacity * self.slot_bytes / 2**30
        left = self.num_slots - self.capacity
        rest = (
            f"; over the budget: {left:,} of {self.num_slots:,} (image, flip) pairs are recomputed "
            "every epoch, with the same results"
        )
        place = f"feature cache: {gib:.2f} GiB in the memory of {self.device}"
        return f"{place}{rest if left else ''}"

    def has(self, row: int, *, mirrored: bool) -> bool:
        """Whether features are there."""
        slot = 2 * row + mirrored
        return slot < self.capacity and bool(self._present[slot])

    def fetch(
        self,
        image_B3SS: Tensor,
        *,
        rows: Sequence[int],
        mirrored: Sequence[bool],
        encode: Encode,
        read_image: Callable[[int], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rounded E3, E4, E5 of a batch, kept or encoded now; zeros where row is -1.

        Images are sent to the device, all at once, only where some are missing. `read_image` is
        never asked: an image that the loader left out has its features here, and they stay.
        Shape: uint8 `[B,3,S,S]` as read (not mirrored) -> float32 `[B,C_i,H_i,W_i]`.
        """
        del read_image
        pairs = list(zip(rows, mirrored, strict=True))
        slots = [2 * row + flip for row, flip in pairs]
        here = [row >= 0 and self.has(row, mirrored=flip) for row, flip in pairs]
        flat_BL = self._store_NL.index_select(
            0, self._index([slot if kept else 0 for slot, kept in zip(slots, here, strict=True)])
        )
        padding = [item for item, row in enumerate(rows) if row < 0]
        if padding:
            flat_BL.index_fill_(0, self._index(padding), 0)
        missing = [item for item, row in enumerate(rows) if row >= 0 and not here[item]]
        if missing:
            seen_B3SS = image_B3SS.to(self.device, non_blocking=True)
        for first in range(0, len(missing), CHUNK):
            items = missing[first : first + CHUNK]
            # Images do not see each other, so any of them fills up the chunk.
            chunk = items + items[:1] * (CHUNK - len(items))
            image_K3SS = seen_B3SS.index_select(0, self._index(chunk))
            flip_K = self._index([int(mirrored[item]) for item in chunk]) > 0
            rounded_KL = self._encode(flip_where(image_K3SS, flip_K), encode)
            flat_BL.index_copy_(0, self._index(items), rounded_KL[: len(items)])
            kept = [at for at, item in enumerate(items) if slots[item] < self.capacity]
            if kept:
                kept_slots = [slots[items[at]] for at in kept]
                self._store_NL.index_copy_(
                    0, self._index(kept_slots), rounded_KL.index_select(0, self._index(kept))
                )
                self._present[kept_slots] = True
        parts = torch.split(flat_BL.float(), self.lengths, dim=1)
        e3, e4, e5 = (
            part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)
        )
        return e3, e4, e5

    def check(self) -> None:
        """Wait for the device's check of the features that it was given.

        Raises:
            DataError: a feature did not fit the dtype.
        """
        if not bool(self._finite):
            raise DataError(
                f"features: the encoder's output is not finite in {self._store_NL.dtype} (largest "
                f"value {self._largest.item():.3g}); use --cache-dtype float32, or other weights"
            )

    def remove(self) -> None:
        """Nothing to delete: the memory is freed with the process."""

    def _index(self, values: list[int]) -> Tensor:
        """Integers on the device, without waiting for it."""
        index = torch.tensor(values, pin_memory=self.device.type == "cuda")
        return index.to(self.device, non_blocking=True)

    def _encode(self, image_K3SS: Tensor, encode: Encode) -> Tensor:
        """Encode and round a chunk. Shape: `[CHUNK, L]`."""
        features = encode(image_K3SS)
        for feature, shape in zip(features, self.shapes, strict=True):
            assert tuple(feature.shape[1:]) == tuple(shape), (feature.shape, shape)
        flat_KL = torch.cat([feature.flatten(1) for feature in features], dim=1)
        rounded_KL = flat_KL.to(self._store_NL.dtype)
        self._finite = self._finite & rounded_KL.isfinite().all()
        self._largest = torch.maximum(self._largest, flat_KL.abs().max())
        return rounded_KL
