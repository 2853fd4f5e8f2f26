"""Features of the frozen encoder, computed once per (image, flip) and kept in a file per node.

Every feature is rounded to the cache's dtype whether it is cached or not, and every image is
encoded in a batch of one fixed size, so the budget changes the speed and never a result.

File: a header, one 8-byte mark per slot (0 = absent, else 2**32 + crc32 of the data), then the
slots. Data is written before its mark and checked against it once per process, so neither a killed
writer nor a lost page can make wrong features. One rank writes a slot at a time; ranks share the
file without locks. Features are E3, E4, E5 as `[C,H,W]`, one after the other; L their total length.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from a2s.errors import ConfigError, DataError
from a2s.storage import places

Encode = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Image bytes, already mirrored where they should be, uint8 `[B,3,S,S]` -> E3, E4, E5."""

STRIDES = (8, 16, 32)
HEADER_BYTES = 4096
MARK_BYTES = 8
PRESENT = 1 << 32


def chunk_size(device: torch.device) -> int:
    """Batch size of the encoder, always exactly this many images.

    The last bits of a convolution depend on the batch size, so a fixed size repeats them. One image
    keeps a CPU busy; a GPU needs more.
    """
    return 1 if device.type == "cpu" else 8


def feature_shapes(image_size: int, channels: Sequence[int]) -> list[tuple[int, int, int]]:
    """Shapes [C, H, W] of E3, E4, E5, which have these `channels`."""
    sides = [image_size // stride for stride in STRIDES]
    return [(count, side, side) for count, side in zip(channels, sides, strict=True)]


def fingerprint_tensors(module: nn.Module) -> str:
    """SHA-256 over a module's state: names, types, and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class FeatureCache:
    """The features of `num_images` images and their mirror images, within a budget."""

    def __init__(
        self,
        folder: Path | None,
        *,
        made_from: Mapping[str, str],
        num_images: int,
        image_size: int,
        channels: Sequence[int],
        dtype: torch.dtype,
        budget_bytes: int,
    ) -> None:
        """`made_from` names what decides a feature's value: fingerprints of data and weights.

        `channels` are those of E3, E4, E5. A folder of None is one in the temporary directory.

        Raises:
            ConfigError: the folder cannot be used.
        """
        self.shapes = feature_shapes(image_size, channels)
        self.lengths = [math.prod(shape) for shape in self.shapes]
        self.dtype = dtype
        self.temporary = folder is None
        self.slot_bytes = sum(self.lengths) * dtype.itemsize
        self.num_slots = 2 * num_images
        self.capacity = min(self.num_slots, budget_bytes // (self.slot_bytes + MARK_BYTES))
        self.path: Path | None = None
        self.full = False
        self._verified = np.zeros(self.capacity, dtype=np.bool_)
        if self.capacity == 0:
            return
        header = {
            **made_from,
            "format": "a2s features 1",
            "torch": torch.__version__,
            "shapes": self.shapes,
            "dtype": str(dtype),
            "capacity": self.capacity,
        }
        self._header = json.dumps(header, sort_keys=True).encode().ljust(HEADER_BYTES, b" ")
        name = hashlib.sha256(self._header).hexdigest()[:20]
        self._data_start = HEADER_BYTES + -(-self.capacity * MARK_BYTES // 4096) * 4096
        self.path = _own_folder(folder) / f"features-{name}.bin"
        self._descriptor = self._open(self.path)
        self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r")
        marks = self._bytes[HEADER_BYTES : HEADER_BYTES + self.capacity * MARK_BYTES]
        self._marks = marks.view(np.uint64)

    def describe(self) -> str:
        """Describe size, location and what does not fit, in one sentence."""
        gib = self.capacity * self.slot_bytes / 2**30
        left = self.num_slots - self.capacity
        place = f"{gib:.2f} GiB in {self.path}" if self.path else "nothing"
        rest = (
            f"; over the budget: {left:,} of {self.num_slots:,} (image, flip) pairs are recomputed "
            "every epoch, with the same results"
        )
        return f"feature cache: {place}{rest if left else ''}"

    def has(self, row: int, *, mirrored: bool) -> bool:
        """Whether intact features are there."""
        slot = 2 * row + mirrored
        if slot >= self.capacity:
            return False
        if not self._verified[slot]:
            mark = int(self._marks[slot])
            self._verified[slot] = mark != 0 and mark == PRESENT + zlib.crc32(self._slot(slot).data)
        return bool(self._verified[slot])

    def read(self, row: int, *, mirrored: bool) -> Tensor:
        """Rounded features of an image. Shape: L."""
        # A copy: the map is read-only, and torch has no read-only tensors.
        return torch.frombuffer(bytearray(self._slot(2 * row + mirrored)), dtype=self.dtype)

    def write(self, row: int, feature_L: Tensor, *, mirrored: bool) -> None:
        """Keep rounded features, if their slot is within the budget and the disk has room."""
        slot = 2 * row + mirrored
        if slot >= self.capacity or self.full:
            return
        data = feature_L.contiguous().view(torch.uint8).numpy().tobytes()
        assert len(data) == self.slot_bytes, (len(data), self.slot_bytes)
        mark = np.uint64(PRESENT + zlib.crc32(data)).tobytes()
        try:
            _pwrite_all(self._descriptor, data, self._data_start + slot * self.slot_bytes)
            _pwrite_all(self._descriptor, mark, HEADER_BYTES + slot * MARK_BYTES)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self.full = True

    def fetch(
        self,
        image_B3SS: Tensor,
        *,
        rows: Sequence[int],
        mirrored: Sequence[bool],
        encode: Encode,
        read_image: Callable[[int], Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rounded E3, E4, E5 of a batch, from the file or encoded now; zeros where row is -1.

        `read_image` serves a row whose image the loader left out, because its features were there,
        and whose features another process has since begun to write again.
        Shape: uint8 `[B,3,S,S]` as read (not mirrored) -> float32 `[B,C_i,H_i,W_i]`.

        Raises:
            DataError: a feature does not fit the dtype.
        """
        flat_BL = torch.zeros(len(rows), sum(self.lengths), dtype=self.dtype)
        missing: dict[int, Tensor] = {}
        for item, (row, flipped) in enumerate(zip(rows, mirrored, strict=True)):
            if row < 0:
                continue
            if self.has(row, mirrored=flipped):
                flat_BL[item] = self.read(row, mirrored=flipped)
            else:
                image_3SS = image_B3SS[item] if image_B3SS[item].any() else read_image(row)
                missing[item] = image_3SS.flip(-1) if flipped else image_3SS
        chunk = chunk_size(image_B3SS.device)
        for first in range(0, len(missing), chunk):
            items = list(missing)[first : first + chunk]
            rounded_KL = self._encode([missing[item] for item in items], chunk, encode)
            for item, feature_L in zip(items, rounded_KL, strict=True):
                flat_BL[item] = feature_L
                self.write(rows[item], feature_L, mirrored=mirrored[item])
        on_device_BL = flat_BL.to(image_B3SS.device).float()
        parts = torch.split(on_device_BL, self.lengths, dim=1)
        e3, e4, e5 = (
            part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)
        )
        return e3, e4, e5

    def remove(self) -> None:
        """Delete the file; ranks that still map it keep it until they end."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def check(self) -> None:
        """Nothing to check: features that do not fit the dtype are refused at once."""

    def _encode(self, images: list[Tensor], chunk: int, encode: Encode) -> Tensor:
        """Encode images in a batch of the fixed size. Shape: `[len(images), L]`."""
        padding = [torch.zeros_like(images[0])] * (chunk - len(images))
        chunk_K3SS = torch.stack(images + padding)
        features = encode(chunk_K3SS)
        for feature, shape in zip(features, self.shapes, strict=True):
            assert tuple(feature.shape[1:]) == tuple(shape), (feature.shape, shape)
        flat_KL = torch.cat([feature.flatten(1) for feature in features], dim=1)
        rounded_KL = flat_KL[: len(images)].to(self.dtype).cpu()
        if not bool(torch.isfinite(rounded_KL).all()):
            raise DataError(
                f"features: the encoder's output is not finite in {self.dtype} (largest value "
                f"{flat_KL.abs().max().item():.3g}); use --cache-dtype float32, or other weights"
            )
        return rounded_KL

    def _slot(self, slot: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        start = self._data_start + slot * self.slot_bytes
        return self._bytes[start : start + self.slot_bytes]

    def _open(self, path: Path) -> int:
        """Open the file of this fingerprint, or make it; ranks may race for it."""
        if not path.exists():
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".features-")
            try:
                _pwrite_all(descriptor, self._header, 0)
                # Sparse: only what is written takes room.
                os.ftruncate(descriptor, self._data_start + self.capacity * self.slot_bytes)
                os.fsync(descriptor)
                # Unlike a rename, a link never replaces the file that another rank just made.
                with contextlib.suppress(FileExistsError):
                    os.link(name, path)
            finally:
                os.close(descriptor)
                Path(name).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        expected = self._data_start + self.capacity * self.slot_bytes
        intact = os.fstat(descriptor).st_size == expected
        if not intact or os.pread(descriptor, HEADER_BYTES, 0) != self._header:
            os.close(descriptor)
            raise ConfigError(f"feature cache: {path} is damaged; delete it")
        return descriptor


def _own_folder(folder: Path | None) -> Path:
    """The cache folder, created if missing; in the temporary folder it must belong to this user."""
    chosen = folder or places.temporary() / f"a2s-features-{os.getuid()}"
    try:
        chosen.mkdir(parents=True, exist_ok=True, mode=0o700 if folder is None else 0o777)
    except OSError as error:
        raise ConfigError(
            f"feature cache: cannot make {chosen} ({error.strerror}); pass --cache-dir"
        ) from None
    if folder is None and chosen.stat().st_uid != os.getuid():
        raise ConfigError(f"feature cache: {chosen} belongs to someone else; pass --cache-dir")
    return chosen


def _pwrite_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
