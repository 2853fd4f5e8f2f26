"""From images to saliency maps on disk: the two halves that the predict job runs per chunk.

`load_step` gives the half that needs the model; `write_chunk` is the one that needs none. Shape
suffixes: B images, H W an image's own size, S the network's input side, h w its output's size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from a2s.data.images import BadImage, Image8, decode, resize_rgb
from a2s.errors import CheckpointError, DataError
from a2s.parallel.gpu_thread import device_thread, pad_batch

_DECODERS_PER_GPU = 8
# Beyond this a sigmoid is 0 or 255 after rounding, and exp would overflow.
_LOGIT_LIMIT = 30.0


@dataclass(frozen=True)
class Picture:
    """One input image: a file (size -1), or a member of a tar."""

    key: str
    path: bytes
    shown: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Read its bytes.

        Raises:
            DataError: it cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(max(self.offset, 0))
                return file.read(self.size)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Logits:
    """The network's answer to one image, before it is enlarged to the image's size."""

    values_hw: NDArray[np.float32]
    height: int
    width: int


@dataclass(frozen=True)
class Shares:
    """A baseline's map in 0..1, before it is enlarged to the image's size."""

    values_hw: NDArray[np.float32]
    height: int
    width: int


Answer = Logits | Shares | BadImage
Step = Callable[[list[Picture]], list[Answer]]
Model = Path | Literal["rbd"]
"""The file of a network, or the name of a baseline that needs none."""


@functools.cache
def load_step(model: Model, max_pixels: int) -> Step:
    """Load a network once per process, and keep it."""
    return new_step(model, max_pixels)


def new_step(model: Model, max_pixels: int) -> Step:
    """Load a network of either stage onto the GPU, else the CPU; or get a baseline, without torch.

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
        return Shares(rbd_reduced(image_HW3), *image_HW3.shape[:2])

    return lambda pictures: [answer(picture) for picture in pictures]


def _network_step(model: Path, max_pixels: int) -> Step:
    import torch

    from a2s.models import saved
    from a2s.models.boundary import sign
    from a2s.models.inference import as_input, prepare_for_inference

    network, metadata = saved.load_model(model)
    for entry in ("image_size", "resize_filter"):
        if entry not in metadata:
            raise CheckpointError(f"model: {model} does not say with which {entry} it was trained")
    side, resize_filter = int(metadata["image_size"]), metadata["resize_filter"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    prepare_for_inference(network, device.type)

    def load(picture: Picture) -> tuple[Image8, int, int] | BadImage:
        image_HW3 = _decode(picture, max_pixels)
        if isinstance(image_HW3, BadImage):
            return image_HW3
        height, width = image_HW3.shape[:2]
        small_SS3 = resize_rgb(image_HW3, height=side, width=side, resize_filter=resize_filter)
        return small_SS3, height, width

    @torch.inference_mode()
    def forward(image_BSS3: Image8) -> NDArray[np.float32]:
        answer = network(as_input(network, torch.from_numpy(image_BSS3)))
        if metadata["kind"] == "activation":
            answer = answer.theta * sign(answer.theta, tie=int(metadata["sign_tie"]))
        return answer[:, 0].float().cpu().numpy()  # type: ignore[no-any-return]

    def step(pictures: list[Picture]) -> list[Answer]:
        if on_gpu:
            with ThreadPoolExecutor(_DECODERS_PER_GPU) as threads:
                loaded = list(threads.map(load, pictures))
        else:
            loaded = [load(picture) for picture in pictures]
        good = [item[0] for item in loaded if not isinstance(item, BadImage)]
        if good and on_gpu:
            batch_BSS3 = pad_batch(np.stack(good), largest=len(pictures))
            maps = iter(device_thread()(lambda: forward(batch_BSS3)))
        else:
            # One at a time on a CPU: faster, and no map depends on which images share its chunk.
            maps = (forward(small_SS3[None])[0] for small_SS3 in good)
        return [
            item if isinstance(item, BadImage) else Logits(next(maps), item[1], item[2])
            for item in loaded
        ]

    return step


def _decode(picture: Picture, max_pixels: int) -> Image8 | BadImage:
    try:
        return decode(picture.read(), max_pixels=max_pixels)
    except BadImage as error:
        return error
    except DataError as error:
        return BadImage("unreadable", str(error))


def to_map(answer: Logits | Shares) -> Image8:
    """Enlarge an answer to the image's own size; logits are squashed only then: edges stay sharp.

    Shape: [h, w] -> [H, W]
    Range: 0..255
    """
    import cv2

    size = (answer.width, answer.height)
    values_HW: NDArray[np.float32] = np.asarray(
        cv2.resize(answer.values_hw, size, interpolation=cv2.INTER_LINEAR), dtype=np.float32
    )
    # In place: a 12-megapixel map is 48 MB.
    if isinstance(answer, Shares):
        np.multiply(values_HW, 255, out=values_HW)
        return np.rint(values_HW, out=values_HW).astype(np.uint8)
    np.clip(values_HW, -_LOGIT_LIMIT, _LOGIT_LIMIT, out=values_HW)
    np.exp(np.negative(values_HW, out=values_HW), out=values_HW)
    np.divide(255, np.add(values_HW, 1, out=values_HW), out=values_HW)
    return np.rint(values_HW, out=values_HW).astype(np.uint8)
