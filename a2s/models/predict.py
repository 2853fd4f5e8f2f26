"""From images to saliency maps: the half of `a2s predict` that runs a network, or the baseline.

`load_step` returns it; the other half, which writes files, needs no model. Shape suffixes:
B images, H W an image's own size, S the network's input side, h w its output's size.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import U8
from a2s.data.images import BadImage, decode
from a2s.data.open_files import Address, Held
from a2s.models.saved import Model, SavedNetwork
from a2s.parallel.gpu_thread import PREFETCH_THREADS, device_thread
from a2s.storage.failures import BAD_CHECKSUM

# Beyond this a sigmoid is 0 or 255 after rounding, and exp would overflow.
_LOGIT_LIMIT = 30.0


@dataclass(frozen=True)
class Picture:
    """One input image: its key, the address of its bytes, and its path for messages."""

    key: str
    address: Address | Held
    shown: str
    crc32: int | None = None
    """Checksum of the bytes, where a shard's table has it."""

    def read(self) -> bytes:
        """Read the bytes and verify their checksum.

        Raises:
            BadImage: they cannot be read, or are not those that were packed.
        """
        try:
            data = self.address.read()
        except OSError as error:
            raise BadImage("unreadable", f"cannot be read ({error.strerror})") from error
        if self.crc32 is not None and zlib.crc32(data) != self.crc32:
            raise BadImage(BAD_CHECKSUM, "does not match its checksum; its shard is damaged")
        return data


@dataclass(frozen=True)
class Logits:
    """Logits of one image at the network's resolution."""

    values_hw: NDArray[np.float32]
    height: int
    width: int


@dataclass(frozen=True)
class Probabilities:
    """Map of a baseline in 0..1 at its own resolution."""

    values_hw: NDArray[np.float32]
    height: int
    width: int


Answer = Logits | Probabilities | BadImage
Step = Callable[[list[Picture]], list[Answer]]


@functools.cache
def load_step(model: Model, max_pixels: int) -> Step:
    """Load a network once per process, and keep it."""
    return new_step(model, max_pixels)


def new_step(model: Model, max_pixels: int) -> Step:
    """Load a network of either stage on the GPU, else the CPU; or the baseline, without torch.

    Raises:
        CheckpointError: the file holds no such network.
    """
    return _baseline_step(max_pixels) if model == "rbd" else _network_step(model, max_pixels)


def _baseline_step(max_pixels: int) -> Step:
    from a2s.models.rbd import rbd_reduced

    def answer(picture: Picture) -> Answer:
        image_HW3 = _decode(picture, max_pixels)
        if isinstance(image_HW3, BadImage):
            return image_HW3
        return Probabilities(rbd_reduced(image_HW3), *image_HW3.shape[:2])

    return lambda pictures: [answer(picture) for picture in pictures]


def _network_step(saved: SavedNetwork, max_pixels: int) -> Step:
    from a2s.models.inference import InferenceModel, load_prepared, local_device

    device = local_device()
    on_gpu = device.type == "cuda"
    network = load_prepared(saved, device.type)
    model = InferenceModel(network, device, thread=device_thread() if on_gpu else None)
    network_input = saved.trained_input

    def load(picture: Picture) -> tuple[U8, int, int] | BadImage:
        image_HW3 = _decode(picture, max_pixels)
        if isinstance(image_HW3, BadImage):
            return image_HW3
        height, width = image_HW3.shape[:2]
        return network_input.resize(image_HW3), height, width

    def step(pictures: list[Picture]) -> list[Answer]:
        runner = model
        if on_gpu:
            runner = dataclasses.replace(model, batch_size=len(pictures))
            with ThreadPoolExecutor(PREFETCH_THREADS) as prefetch:
                loaded = list(prefetch.map(load, pictures))
        else:
            # One at a time on a CPU: faster, and no map depends on which images share its chunk.
            loaded = [load(picture) for picture in pictures]
        good = [item[0] for item in loaded if not isinstance(item, BadImage)]
        maps = iter(runner.call(lambda: runner.saliency_logits(np.stack(good))) if good else ())
        return [
            item if isinstance(item, BadImage) else Logits(next(maps), item[1], item[2])
            for item in loaded
        ]

    return step


def _decode(picture: Picture, max_pixels: int) -> U8 | BadImage:
    try:
        return decode(picture.read(), max_pixels=max_pixels)
    except BadImage as error:
        return error


def to_map(answer: Logits | Probabilities) -> U8:
    """Enlarge a map to the image's own size; the sigmoid follows, so that edges stay sharp.

    Shape: [h, w] -> [H, W]
    Range: 0..255
    """
    import cv2

    size = (answer.width, answer.height)
    values_HW: NDArray[np.float32] = np.asarray(
        cv2.resize(answer.values_hw, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32
    )
    # In place: a 12-megapixel map is 48 MB.
    if isinstance(answer, Probabilities):
        np.multiply(values_HW, 255, out=values_HW)
        return np.rint(values_HW, out=values_HW).astype(np.uint8)
    np.clip(values_HW, -_LOGIT_LIMIT, _LOGIT_LIMIT, out=values_HW)
    np.exp(np.negative(values_HW, out=values_HW), out=values_HW)
    np.divide(255, np.add(values_HW, 1, out=values_HW), out=values_HW)
    return np.rint(values_HW, out=values_HW).astype(np.uint8)
