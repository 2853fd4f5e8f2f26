"""Input of stage 1's blocks: features E3, E4, E5 of every batch.

Features of a frozen encoder are the same in every epoch and come from a cache. An encoder that
changes computes them at every step. `training/setup.py` chooses once; both classes share one
interface. B images of one rank, S side of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from a2s.data.batch import Batch
from a2s.data.transforms import flip_where
from a2s.training.features.file_cache import Encode, FeatureCache
from a2s.training.features.gpu_cache import GpuFeatureCache

Taps = tuple[Tensor, Tensor, Tensor]
ReadImage = Callable[[int], Tensor]


class CachedFeatures:
    """Features of a frozen encoder: cached, or encoded now."""

    def __init__(self, cache: FeatureCache | GpuFeatureCache, encode: Encode) -> None:
        self._cache = cache
        self._encode = encode

    def needs_image(self, row: int, mirrored: bool) -> bool:
        """Whether the image itself must be read."""
        return not self._cache.has(row, mirrored=mirrored)

    def describe(self) -> str:
        """Describe the cache in one sentence."""
        return self._cache.describe()

    def of(self, batch: Batch, read_image: ReadImage) -> Taps:
        """E3, E4, E5 of a batch, mirrored where `flip_B` says so; zeros for padding."""
        return self._cache.fetch(
            batch.image_B3SS,
            rows=batch.row_B.tolist(),
            mirrored=batch.flip_B.tolist(),
            encode=self._encode,
            read_image=read_image,
        )

    def check(self) -> None:
        """Wait for the device's check of its features.

        Raises:
            DataError: a feature did not fit the cache's dtype.
        """
        self._cache.check()

    def close(self, *, keep: bool) -> str:
        """Delete a temporary cache unless `keep`; return a sentence for the user, or nothing."""
        if self._cache.temporary and not keep:
            self._cache.remove()
        return "the cache's disk is full; what did not fit was recomputed" * self._cache.full


class LiveFeatures:
    """Features of an encoder that changes from step to step.

    Padding is left out, so that BatchNorm sees images only. `normalise` is the encoder's own;
    `encode` takes normalised images and gives all taps.
    """

    needs_image = None

    def __init__(
        self,
        encode: Callable[[Tensor], Sequence[Tensor]],
        device: torch.device,
        normalise: Callable[[Tensor], Tensor],
        *,
        world: int,
    ) -> None:
        self._encode = encode
        self._device = device
        self._normalise = normalise
        self._world = world

    def describe(self) -> str:
        """Describe in one sentence what this costs, and how several ranks differ from one."""
        says = "the encoder runs at every step; nothing is cached"
        if self._world == 1:
            return says
        return (
            f"{says}; BatchNorm normalises each rank's images by themselves, so {self._world} "
            "ranks train another network than one"
        )

    def of(self, batch: Batch, read_image: ReadImage) -> Taps:
        """E3, E4, E5 of a batch, mirrored where `flip_B` says so; zeros for padding."""
        del read_image  # the loader left no image out
        # Valid images come first. A rank without any runs along: the others wait for it.
        num_images, num_slots = max(1, int(batch.valid_B.sum())), len(batch.row_B)
        image_B3SS = batch.image_B3SS[:num_images].to(self._device, non_blocking=True)
        image_B3SS = image_B3SS.contiguous(memory_format=torch.channels_last)
        flip_B = batch.flip_B[:num_images].to(self._device, non_blocking=True)
        taps = self._encode(flip_where(self._normalise(image_B3SS), flip_B))
        padding = (0, 0) * 3 + (0, num_slots - num_images)
        e3, e4, e5 = (F.pad(tap.float(), padding) for tap in taps[-3:])
        return e3, e4, e5

    def check(self) -> None:
        """Nothing to check: the loss would not be finite."""

    def close(self, *, keep: bool) -> str:
        """Nothing to close."""
        return ""
