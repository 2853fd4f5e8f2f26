"""One rank's part of a global batch, in a single buffer.

Shapes: B images, S side of the network's square input, W 32-bit words of drop masks.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor

from a2s.errors import ConfigError
from a2s.storage import places

ALIGNED = 64
_Part = tuple[str, torch.dtype, tuple[int, ...]]
"""A tensor of a batch: name, dtype, shape."""


class Batch:
    """One rank's part of a global batch. Padding slots have row -1, valid False and label 0.

    A padding slot repeats the batch's first image, so that BatchNorm sees no black images.
    All tensors are views of one buffer. A worker process therefore sends a batch through one file
    descriptor (each takes a connection and holds the interpreter's lock), and the batch is pinned
    and copied to the GPU as a whole.

    Shape: image uint8 `[B,3,S,S]` as stored (not mirrored), row int64 `[B]`, valid bool `[B]`,
    flip bool `[B]`, keep int32 `[B,W]` (`draw_keep_words`) or None, window float32 `[B,4]`
    (`draw_windows`) or None, label float32 `[B,1,S,S]` or None. If no image of the batch is needed,
    image is `[B,3,0,0]`.
    """

    image_B3SS: Tensor
    row_B: Tensor
    valid_B: Tensor
    flip_B: Tensor
    keep_BW: Tensor | None = None
    window_B4: Tensor | None = None
    label_B1SS: Tensor | None = None

    def __init__(self, bytes_N: Tensor, parts: Sequence[_Part]) -> None:
        self._bytes_N, self._parts = bytes_N, tuple(parts)
        for (name, dtype, shape), span in zip(self._parts, _spans(self._parts), strict=True):
            setattr(self, name, bytes_N[span].view(dtype).view(shape))

    @classmethod
    def of(cls, **tensors: Tensor | None) -> Batch:
        """Copy CPU tensors, given under the attribute names above, into one batch."""
        present = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        parts = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in present.items()]
        batch = cls(torch.empty(_spans(parts)[-1].stop, dtype=torch.uint8), parts)
        for name, tensor in present.items():
            getattr(batch, name).copy_(tensor)
        return batch

    def share(self) -> None:
        """Move the batch into shared memory, through which it gets to another process.

        Raises:
            ConfigError: there is not enough.
        """
        try:
            self._bytes_N.share_memory_()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            free_mib = shutil.disk_usage(places.SHARED_MEMORY).free / 2**20
            batch_mib = self._bytes_N.numel() / 2**20
            raise ConfigError(
                f"data: {places.SHARED_MEMORY} is full ({free_mib:.0f} MiB free, a batch takes "
                f"{batch_mib:.1f}); give it more (docker run --shm-size 2g), or use fewer "
                "--loader-workers, or 0"
            ) from None

    def __reduce__(self) -> tuple[type[Batch], tuple[Tensor, tuple[_Part, ...]]]:
        return Batch, (self._bytes_N, self._parts)

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device; images become channels-last, which convolutions prefer."""
        batch = Batch(self._bytes_N.to(device, non_blocking=True), self._parts)
        batch.image_B3SS = batch.image_B3SS.contiguous(memory_format=torch.channels_last)
        return batch

    def pin_memory(self) -> Batch:
        """Pin the batch's memory (`DataLoader` calls this), so that GPU copies are asynchronous."""
        return Batch(self._bytes_N.pin_memory(), self._parts)


def _spans(parts: Sequence[_Part]) -> list[slice]:
    """Byte range of each part in the buffer; each starts at a multiple of `ALIGNED` bytes."""
    spans, stop = list[slice](), 0
    for _, dtype, shape in parts:
        start = -(-stop // ALIGNED) * ALIGNED
        stop = start + math.prod(shape) * dtype.itemsize
        spans.append(slice(start, stop))
    return spans
