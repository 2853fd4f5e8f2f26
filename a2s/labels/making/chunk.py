"""What a worker does with one chunk of a shard on the way to pseudo labels (Eqn 5, 6).

On CPUs one process does everything with an image that it has decoded once (`label_chunk`). Where
networks live on GPUs, one half runs there (`load_activation`) and the other on any CPU
(`refine_chunk`); the images stay where they are, whoever needs them reads them from the tar, and
only maps and finished labels travel. Shapes: B images, S the network's input size, h w a map's.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from a2s.data import images
from a2s.data.index import Index
from a2s.errors import CheckpointError, DataError
from a2s.labels.crf.energy import U8, Mask
from a2s.labels.quality import Quality
from a2s.labels.refine import Recipe, Refined, finish, probability, refine
from a2s.models import saved
from a2s.storage import tensors

if TYPE_CHECKING:
    from a2s.models.activation_net import ActivationNet

Failure = dict[str, str]
Theta = npt.NDArray[np.float32]

STAGES = ("decode", "network", "refine", "write")
"""What a label costs: reading and decoding, the activation map, CRF and median, PNG."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive samples of one shard."""

    shard: int
    number: int
    part: Index

    def __str__(self) -> str:
        return f"{self.part.shards[0].name}, chunk {self.number} from key {self.part.key(0)}"


@dataclass(frozen=True)
class Packed:
    """A mask, a bit per pixel."""

    bits: npt.NDArray[np.uint8]
    height: int
    width: int

    @staticmethod
    def of(mask_HW: Mask) -> Packed:
        """Pack."""
        return Packed(np.packbits(mask_HW), *mask_HW.shape)

    def unpacked(self) -> Mask:
        """Unpack."""
        count = self.height * self.width
        return np.unpackbits(self.bits, count=count).astype(bool).reshape(self.height, self.width)


@dataclass(frozen=True)
class Activated:
    """What the process with the GPU knows of a chunk, by row: maps, or why an image has none."""

    thetas: dict[int, Theta]
    masks: dict[int, Packed]
    """What the CRF gave, where it ran on the GPU."""
    sizes: dict[int, tuple[int, int]]
    """Height and width of the image."""
    failures: dict[int, Failure]
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Label:
    """A finished label: PNG bytes at the image's own size, and its row of the quality table."""

    png: bytes
    width: int
    height: int
    quality: Quality


@dataclass
class Labelled:
    """A finished chunk: labels by key, failures as lines of `failures.jsonl`, seconds by stage."""

    shard: int
    number: int
    labels: dict[str, Label] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    device_seconds: dict[str, float] = field(default_factory=dict)
    """Of what the process with the GPU did, when there is one."""


def chunks(index: Index, *, todo: list[int], size: int) -> Iterator[Chunk]:
    """Cut shards into chunks, lazily and in order."""
    for shard in todo:
        rows = index.shard_rows(shard)
        for number, start in enumerate(range(rows.start, rows.stop, size)):
            yield Chunk(shard, number, index.part(range(start, min(start + size, rows.stop))))


def input_size(model: Path) -> int:
    """Input size of a stage-1 model, from its header alone (no torch).

    Raises:
        CheckpointError: it cannot be read, or is of another kind.
    """
    return int(_header(model)["image_size"])


def sign_tie(model: Path) -> int:
    """The sign (Eqn 5) of a tie in a stage-1 model's maps, from its header alone (no torch).

    Raises:
        CheckpointError: it cannot be read, or is of another kind.
    """
    return int(_header(model)["sign_tie"])


def _header(model: Path) -> dict[str, str]:
    try:
        metadata = tensors.read_metadata(model)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; is it a checkpoint of the paper's authors, make it a model with a2s "
            "import-weights"
        ) from None
    if metadata.get("kind") != "activation":
        kind = metadata.get("kind", "unknown")
        raise CheckpointError(
            f"label: {model} is of kind {kind}; labels come from a stage-1 model (a2s stage1)"
        )
    for entry in ("image_size", "resize_filter", "sign_tie"):
        if entry not in metadata:
            raise CheckpointError(f"label: {model} does not say with which {entry} it was trained")
    return metadata


@functools.cache
def load_network(model: Path, device: str = "cpu") -> ActivationNet:
    """Load a stage-1 model for labelling only, onto a device, once per process."""
    from a2s.models.activation_net import ActivationNet
    from a2s.models.inference import prepare_for_inference

    network, _ = saved.load_model(model)
    assert isinstance(network, ActivationNet), model
    prepare_for_inference(network, device)
    return network


@functools.cache
def squash(model: Path, image_size: int | None) -> Callable[[U8], U8]:
    """Choose what a model sees: images squashed to a square of a size, or as they are.

    Shape: H W 3 -> S S 3 or H W 3.
    """
    if image_size is None:
        return lambda image_HW3: image_HW3
    resize_filter = _header(model)["resize_filter"]
    return functools.partial(
        images.resize_rgb, height=image_size, width=image_size, resize_filter=resize_filter
    )


def label_chunk(chunk: Chunk, model: Path, image_size: int | None, recipe: Recipe) -> Labelled:
    """Label the images of a chunk, one after the other, on one CPU core.

    The network sees them at `image_size`, or at their own.
    """
    network, squashed = load_network(model), squash(model, image_size)
    done = Labelled(chunk.shard, chunk.number)
    for row in range(len(chunk.part)):
        try:
            with _counted(done.seconds, "decode"):
                image_HW3 = decode(chunk.part, row)
                small_SS3 = squashed(image_HW3)
        except DataError as error:
            done.failures.append(failure(chunk.part, row, error))
            continue
        with _counted(done.seconds, "network"):
            # One at a time: an image has the same label whatever shares its chunk.
            theta_hw = activate(network, small_SS3[None])[0]
        with _counted(done.seconds, "refine"):
            refined = refine(image_HW3, theta_hw, recipe=recipe)
        _add(done, chunk, row, refined)
    return done


def activate(network: ActivationNet, image_BSS3: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Make activation maps (Eqn 3) on the network's device; bytes go there, and are normalised.

    Shape: B S S 3, or any other height and width -> B h w.
    """
    import torch

    from a2s.models.inference import as_input

    with torch.inference_mode():
        image_B3SS = as_input(network, torch.from_numpy(image_BSS3))
        return network(image_B3SS).theta[:, 0].float().cpu().numpy()  # type: ignore[no-any-return]


def refine_chunk(chunk: Chunk, activated: Activated, recipe: Recipe) -> Labelled:
    """Refine the maps of a chunk at the images' own size.

    The images are read again for it, where the CRF has not been computed on the GPU.
    """
    done = Labelled(chunk.shard, chunk.number, device_seconds=activated.seconds)
    failures = dict(activated.failures)
    for row, theta_hw in activated.thetas.items():
        if row in activated.masks:
            with _counted(done.seconds, "refine"):
                crf_ST = activated.masks[row].unpacked()
                s, t = crf_ST.shape
                p_ST = probability(theta_hw, height=s, width=t, tie=recipe.sign_tie)
                height, width = activated.sizes[row]
                refined = finish(crf_ST, theta_hw, p_ST, height=height, width=width, recipe=recipe)
            _add(done, chunk, row, refined)
            continue
        try:
            with _counted(done.seconds, "decode"):
                image_HW3 = decode(chunk.part, row)
        except DataError as error:
            failures[row] = failure(chunk.part, row, error)
            continue
        with _counted(done.seconds, "refine"):
            refined = refine(image_HW3, theta_hw, recipe=recipe)
        _add(done, chunk, row, refined)
    done.failures = [failures[row] for row in sorted(failures)]
    return done


def decode(part: Index, row: int) -> npt.NDArray[np.uint8]:
    """Read and decode an image.

    Raises:
        DataError: it is damaged.
    """
    return images.decode(part.read(row), max_pixels=max(images.MAX_PIXELS, part.pixels(row)))


def failure(part: Index, row: int, error: DataError) -> Failure:
    """A line of `failures.jsonl`."""
    return {
        "key": part.key(row),
        "path": str(part.shards[0].path),
        "reason": error.reason if isinstance(error, images.BadImage) else "damaged",
        "detail": str(error),
    }


def _add(done: Labelled, chunk: Chunk, row: int, refined: Refined) -> None:
    with _counted(done.seconds, "write"):
        height, width = refined.mask_HW.shape
        png = images.encode_png(refined.mask_HW)
    done.labels[chunk.part.key(row)] = Label(png, width, height, refined.quality)


@contextmanager
def _counted(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - started
