"""From images to saliency maps on disk: the two halves that the predict job runs per chunk.

`load_step` gives the half that needs the model; `write_chunk` is the one that needs none. Shape
suffixes: B images, H W an image's own size, S the network's input side, h w its output's size.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from a2s import rundir
from a2s.data.images import BadImage, Image8, decode, encode_png, resize_rgb
from a2s.data.keys import decode_key
from a2s.devicethread import device_thread, filled_up
from a2s.errors import CheckpointError, DataError

_DECODERS_PER_GPU = 8
# What a file system answers to a name that it cannot hold; anything else concerns the whole run.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ)
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
class Outputs:
    """Where to write, and what besides the map."""

    folder: Path
    cutout: bool
    overlay: bool
    max_pixels: int

    def paths(self, key: str) -> dict[str, Path]:
        """Files of a key; the map comes last, so that it means that all are there.

        Raises:
            DataError: the key is not a safe name.
        """
        name = decode_key(key)
        kinds = {"overlay": ".overlay.jpg", "cutout": ".cutout.png", "map": ".png"}
        wanted = {"overlay": self.overlay, "cutout": self.cutout, "map": True}
        return {
            kind: self.folder / f"{name}{suffix}" for kind, suffix in kinds.items() if wanted[kind]
        }


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


@dataclass
class Written:
    """What became of a chunk."""

    num_written: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)


Answer = Logits | Shares | BadImage
Step = Callable[[list[Picture]], list[Answer]]
Model = Path | Literal["rbd"]
"""The file of a network, or the name of a baseline that needs none."""


def predict_chunk(pictures: list[Picture], model: Model, outputs: Outputs) -> Written:
    """Do both halves in one process, which loads a network once."""
    step = load_step(model, outputs.max_pixels)
    return write_chunk(pictures, step(pictures), outputs)


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
    from a2s.baselines.rbd import rbd_reduced

    def answer(picture: Picture) -> Answer:
        image_HW3 = _decode(picture, max_pixels)
        if isinstance(image_HW3, BadImage):
            return image_HW3
        return Shares(rbd_reduced(image_HW3), *image_HW3.shape[:2])

    return lambda pictures: [answer(picture) for picture in pictures]


def _network_step(model: Path, max_pixels: int) -> Step:
    import torch

    from a2s import checkpoint
    from a2s.boundary import sign
    from a2s.models.encoders import as_input, for_inference

    network, metadata = checkpoint.load_model(model)
    if "image_size" not in metadata:
        raise CheckpointError(f"model: {model} does not say for which image_size it was trained")
    side, resize_filter = int(metadata["image_size"]), metadata.get("resize_filter", "bilinear")
    sign_tie = int(metadata.get("sign_tie", "1"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.type == "cuda"
    for_inference(network, device.type)

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
            answer = answer.theta * sign(answer.theta, tie=sign_tie)
        return answer[:, 0].float().cpu().numpy()  # type: ignore[no-any-return]

    def step(pictures: list[Picture]) -> list[Answer]:
        if on_gpu:
            with ThreadPoolExecutor(_DECODERS_PER_GPU) as threads:
                loaded = list(threads.map(load, pictures))
        else:
            loaded = [load(picture) for picture in pictures]
        good = [item[0] for item in loaded if not isinstance(item, BadImage)]
        if good and on_gpu:
            batch_BSS3 = filled_up(np.stack(good), largest=len(pictures))
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


def write_chunk(pictures: list[Picture], answers: list[Answer], outputs: Outputs) -> Written:
    """Write the files of a chunk; an image that fails is reported, not raised."""
    written = Written()
    for picture, answer in zip(pictures, answers, strict=True):
        reason = ""
        try:
            if isinstance(answer, BadImage):
                raise answer
            _write(picture, answer, outputs)
            written.num_written += 1
        except BadImage as error:
            reason, detail = error.reason, error.detail
        except DataError as error:
            reason, detail = "unsafe_name", str(error)
        except OSError as error:
            if error.errno not in _NAME_ERRORS:
                raise
            reason, detail = "unwritable_name", f"{error.strerror}: {error.filename}"
        if reason:
            written.failures.append(
                {"key": picture.key, "path": picture.shown, "reason": reason, "detail": detail}
            )
    return written


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


def _write(picture: Picture, answer: Logits | Shares, outputs: Outputs) -> None:
    paths = outputs.paths(picture.key)
    map_HW = to_map(answer)
    paths["map"].parent.mkdir(parents=True, exist_ok=True)
    if outputs.cutout or outputs.overlay:
        from PIL import Image

        from a2s.overlay import cutout, overlay

        # Decoded again rather than kept: a batch of large photographs would fill the memory.
        image_HW3 = decode(picture.read(), max_pixels=outputs.max_pixels)
        if outputs.overlay:
            with rundir.atomic_path(paths["overlay"]) as temporary:
                Image.fromarray(overlay(image_HW3, map_HW)).save(temporary, "JPEG", quality=90)
        if outputs.cutout:
            with rundir.atomic_path(paths["cutout"]) as temporary:
                Image.fromarray(cutout(image_HW3, map_HW)).save(temporary, "PNG", compress_level=3)
    rundir.atomic_write(paths["map"], encode_png(map_HW))
