"""Forecast time, machines and bytes of labelling from a sample of the images. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WITHIN_HOURS = (1.0, 24.0)
MOSTLY_BUSY = 0.9
"""Below this share of CPU time something else had the cores, or storage is slow."""


@dataclass(frozen=True)
class Sample:
    """Measurements of a sample; seconds of one process on one core, or on one GPU."""

    cpu_sec_N: Sequence[float]
    """CPU seconds of every image of the sample; waiting for a core does not count."""
    stage_sec: Mapping[str, float]
    """Mean seconds per image by stage, device stages included."""
    device_sec: float
    """GPU-seconds per image; 0 without a GPU."""
    read_bytes: float
    """Mean size of an image's file."""
    label_bytes: float
    """Mean size of a label in its shard."""
    workers: int
    """Processes or threads that did the second measurement together."""
    pool_images_per_sec: float
    """What they managed together, once they ran."""
    start_sec: float
    """Until the first result of the pool was there, less the work in it."""
    busy: float = 1.0
    """CPU time of the pool's workers as a share of their time; the rest they waited."""
    network: str = ""
    """What was timed, in words."""


@dataclass(frozen=True)
class Forecast:
    """Forecast for all images."""

    num_images: int
    core_hours: float
    core_hours_error: float
    """Standard error of the mean over the sample, times two."""
    gpu_hours: float
    read_gib: float
    write_gib: float
    wall_hours: float
    """Here, with `best_pool` workers."""
    best_pool: int
    """Workers per GPU that keep it busy; without a GPU all that were measured."""
    efficiency: float
    """What the pool managed while it had the cores / its workers times what one does alone. Range:
    about 0..1."""


def forecast(sample: Sample, num_images: int) -> Forecast:
    """Extrapolate from the sample to `num_images`."""
    count = len(sample.cpu_sec_N)
    mean_sec = sum(sample.cpu_sec_N) / count
    variance = sum((sec - mean_sec) ** 2 for sec in sample.cpu_sec_N) / max(count - 1, 1)
    error_sec = 2 * math.sqrt(variance / count)
    pool = sample.workers
    if sample.device_sec > 0:
        pool = max(1, math.ceil(mean_sec / sample.device_sec))
    alone = 1 / max(mean_sec, 1e-9)
    if sample.device_sec > 0:
        alone = min(alone, 1 / (sample.device_sec * sample.workers))
    return Forecast(
        num_images=num_images,
        core_hours=num_images * mean_sec / 3600,
        core_hours_error=num_images * error_sec / 3600,
        gpu_hours=num_images * sample.device_sec / 3600,
        read_gib=num_images * sample.read_bytes / 2**30,
        write_gib=num_images * sample.label_bytes / 2**30,
        wall_hours=(sample.start_sec + num_images / sample.pool_images_per_sec) / 3600,
        best_pool=pool,
        efficiency=sample.pool_images_per_sec / (sample.workers * alone * sample.busy),
    )


def describe(sample: Sample, found: Forecast, *, device: str) -> list[str]:
    """Describe the forecast in lines of text."""
    total_sec = sum(sample.stage_sec.values())
    lines = [
        f"network    {sample.network}",
        f"{'stage':<10}{'ms/image':>10}{'share':>8}",
        *(
            f"{stage:<10}{1000 * sec:>10.2f}{sec / total_sec:>8.0%}"
            for stage, sec in sample.stage_sec.items()
        ),
        f"core-hours {found.core_hours:,.2f} (±{found.core_hours_error:,.2f}) of CPU time, "
        f"GPU-hours {found.gpu_hours:,.2f}",
        f"bytes      reads {found.read_gib:,.2f} GiB, writes {found.write_gib:,.2f} GiB of labels",
        f"here       {_duration(found.wall_hours)} with {sample.workers} workers "
        f"({sample.pool_images_per_sec:.1f} images/s; with the cores to themselves "
        f"{found.efficiency:.0%} of {sample.workers} times one; {sample.start_sec:.0f} s to start)",
    ]
    if sample.device_sec > 0:
        lines.append(
            f"best pool  {found.best_pool} CPU workers for each {device}: with fewer it waits"
        )
    else:
        lines.append(f"best pool  {found.best_pool} workers, one per core; no GPU was found here")
    if sample.busy < MOSTLY_BUSY:
        lines.append(
            f"waiting    {1 - sample.busy:.0%} of the workers' time went by without a core, or for "
            "storage; `here` includes that, core-hours and mix do not"
        )
    per_core = found.core_hours / max(found.efficiency, 1e-9)
    for hours in WITHIN_HOURS:
        cores = max(1, math.ceil(per_core / hours))
        gpus = math.ceil(found.gpu_hours / hours)
        mix = f"{cores:,} such cores" + (f" and {gpus:,} such GPUs" if gpus else "")
        lines.append(f"mix        {mix} for {_duration(hours)}")
    return lines


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:,.1f} h"
