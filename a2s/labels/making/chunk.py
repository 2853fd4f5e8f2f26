"""Label one chunk of a shard: the work of one task (Eqn 5, 6).

On CPUs one process decodes an image once and labels it to the end (`label_chunk`). With GPUs an
actor computes the activation maps, and by default the dense CRF (`gpu.load_activation`); a task on
any CPU does the rest (`refine_chunk`). Both read the images from their tar; only maps, masks and
finished labels are sent. Shapes: B images, S the network's input size, h w a map's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from a2s.data import images
from a2s.data.arrays import F32, U8, Bool
from a2s.data.chunks import Chunk
from a2s.data.isolation import decoder_cpu_sec
from a2s.errors import DataError
from a2s.labels.quality import Quality
from a2s.labels.refine import Recipe, Refined, median_and_quality, probability, refine
from a2s.models.saved import Model, NetworkInput
from a2s.parallel import pool
from a2s.parallel.timing import StageTimer
from a2s.storage.failures import BAD_CHECKSUM, Failure, failure

_NO_MEMORY = "out of memory while its label was made; try fewer workers"
STAGES = ("decode", "network", "refine", "write")
"""Stages of labelling: read and decode, activation map, CRF and median, PNG."""


@dataclass(frozen=True)
class Packed:
    """A mask, a bit per pixel."""

    bits: npt.NDArray[np.uint8]
    height: int
    width: int

    @staticmethod
    def of(mask_HW: Bool) -> Packed:
        """Pack."""
        return Packed(np.packbits(mask_HW), *mask_HW.shape)

    def unpacked(self) -> Bool:
        """Unpack."""
        count = self.height * self.width
        return np.unpackbits(self.bits, count=count).astype(bool).reshape(self.height, self.width)


@dataclass(frozen=True)
class Activated:
    """Result of the GPU half for one chunk, by row: activation maps, or why an image has none."""

    thetas: dict[int, F32]
    masks: dict[int, Packed]
    """What the CRF gave, where it ran on the GPU."""
    thumbnails: dict[int, U8]
    """Small images for the quality numbers, where the CRF ran on the GPU."""
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
    """A finished chunk: labels by key, failures, seconds by stage."""

    shard: int
    number: int
    labels: dict[str, Label] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    device_seconds: dict[str, float] = field(default_factory=dict)
    """Of what the process with the GPU did, when there is one."""
    cpu_sec: float = 0.0
    """CPU time of this thread and its decoder, without waiting for a core or for storage."""


def label_chunk(
    chunk: Chunk, model: Model, network_input: NetworkInput, recipe: Recipe
) -> Labelled:
    """Label the images of a chunk, one after the other, on one CPU core."""
    theta_of = _theta_of(model, network_input)
    began_sec = _cpu_clock()
    done = Labelled(chunk.shard, chunk.number)
    timer = StageTimer(done.seconds)
    for row in range(len(chunk.part)):
        try:
            with timer.stage("decode"):
                image_HW3 = chunk.decode(row)
        except DataError as error:
            done.failures.append(damaged(chunk, row, error))
            continue
        try:
            with timer.stage("network"):
                theta_hw = theta_of(image_HW3)
            with timer.stage("refine"):
                refined = refine(image_HW3, theta_hw, recipe=recipe)
        except MemoryError:
            done.failures.append(damaged(chunk, row, images.BadImage("memory", _NO_MEMORY)))
            continue
        _add(done, chunk, row, refined, timer)
    done.cpu_sec = _cpu_clock() - began_sec
    return done


def _cpu_clock() -> float:
    return time.thread_time() + decoder_cpu_sec()


def _theta_of(model: Model, network_input: NetworkInput) -> Callable[[U8], F32]:
    """Return the function that makes the map of one image. Shape: H W 3 -> h w."""
    if model == "rbd":
        from a2s.models.rbd import rbd_log_odds

        return rbd_log_odds
    from a2s.models.inference import on_cpu

    network = on_cpu(model)
    return lambda image_HW3: network.maps(network_input.resize(image_HW3)[None])[0]


def refine_chunk(chunk: Chunk, activated: Activated, recipe: Recipe) -> Labelled:
    """Refine the maps of a chunk at the images' own size.

    Images are read again unless the CRF was computed on the GPU.
    """
    began_sec = _cpu_clock()
    done = Labelled(chunk.shard, chunk.number, device_seconds=activated.seconds)
    failures, timer = dict(activated.failures), StageTimer(done.seconds)
    for row, theta_hw in activated.thetas.items():
        if row in activated.masks:
            with timer.stage("refine"):
                crf_ST = activated.masks[row].unpacked()
                s, t = crf_ST.shape
                p_ST = probability(theta_hw, height=s, width=t, tie=recipe.sign_tie)
                height, width = activated.sizes[row]
                refined = median_and_quality(
                    crf_ST,
                    theta_hw,
                    p_ST,
                    activated.thumbnails[row],
                    height=height,
                    width=width,
                    recipe=recipe,
                )
            _add(done, chunk, row, refined, timer)
            continue
        try:
            with timer.stage("decode"):
                image_HW3 = chunk.decode(row)
        except DataError as error:
            failures[row] = damaged(chunk, row, error)
            continue
        try:
            with timer.stage("refine"):
                refined = refine(image_HW3, theta_hw, recipe=recipe)
        except MemoryError:
            failures[row] = damaged(chunk, row, images.BadImage("memory", _NO_MEMORY))
            continue
        _add(done, chunk, row, refined, timer)
    done.failures = [failures[row] for row in sorted(failures)]
    done.cpu_sec = _cpu_clock() - began_sec
    return done


def halves(chunk: Chunk) -> list[Chunk]:
    """Both halves of a chunk; none of a chunk of one image."""
    return [
        chunk.only(range(rows[0], rows[-1] + 1)) for rows in pool.halves(range(len(chunk.part)))
    ]


def merged(chunk: Chunk, parts: list[Labelled]) -> Labelled:
    """The result of a chunk from those of its parts, in order."""
    done = Labelled(chunk.shard, chunk.number)
    for part in parts:
        done.labels |= part.labels
        done.failures += part.failures
        done.cpu_sec += part.cpu_sec
        for name in ("seconds", "device_seconds"):
            ours, theirs = getattr(done, name), getattr(part, name)
            ours |= {stage: ours.get(stage, 0.0) + sec for stage, sec in theirs.items()}
    return done


def given_up(chunk: Chunk, reason: str, detail: str) -> Labelled:
    """The result of a chunk of one image that ends the process that labels it."""
    error = images.BadImage(reason, detail)
    return Labelled(chunk.shard, chunk.number, failures=[damaged(chunk, 0, error)])


def damaged(chunk: Chunk, row: int, error: DataError) -> Failure:
    """Failure record of an image that gets no label."""
    reason = error.reason if isinstance(error, images.BadImage) else BAD_CHECKSUM
    return failure(chunk.part.key(row), str(chunk.part.shards[0].path), reason, str(error))


def _add(done: Labelled, chunk: Chunk, row: int, refined: Refined, timer: StageTimer) -> None:
    with timer.stage("write"):
        height, width = refined.mask_HW.shape
        png = images.encode_png(refined.mask_HW)
    done.labels[chunk.part.key(row)] = Label(png, width, height, refined.quality)
