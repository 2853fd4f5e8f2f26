"""Table I: how well three thresholds part activation maps before training, and what they cost."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from a2s.data.images import decode
from a2s.data.tar_index import Index
from a2s.errors import DataError
from a2s.figures.maps import Activator, untrained
from a2s.rundir import write_json
from a2s.thresholds import READINGS, STRATEGIES, inter_class_variance


@dataclass(frozen=True)
class Table1:
    """Means over the images of V (Eqn 2), by reading and strategy, and the median time per image.

    `failed` are the keys of images that could not be read; no number counts them.
    """

    num_images: int
    variance: dict[str, dict[str, float]]
    time_per_image_sec: dict[str, float]
    failed: tuple[str, ...]


def measure(data: Path, *, activator: Activator, num_images: int | None = None) -> Table1:
    """Measure on the first images of data shards, one at a time; None means all of them.

    Each map is at the network's own resolution. Times are those on the min-max map.

    Raises:
        DataError: `data` holds no shards, or no image of them can be read.
    """
    index = Index.load(data)
    count = min(len(index), num_images or len(index))
    sums = {reading: dict.fromkeys(STRATEGIES, 0.0) for reading in READINGS}
    seconds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    failed = []
    for row in range(count):
        try:
            theta_hw = activator(decode(index.read(row)))
        except DataError:
            failed.append(index.key(row))
            continue
        for name, strategy in STRATEGIES.items():
            for reading, to_unit in READINGS.items():
                values_hw = to_unit(theta_hw)
                start = time.perf_counter()
                threshold = strategy(values_hw)
                if reading == "min-max":
                    seconds[name].append(time.perf_counter() - start)
                sums[reading][name] += inter_class_variance(values_hw, threshold)
    measured = count - len(failed)
    if not measured:
        raise DataError(f"{data}: none of {count} images can be read")
    return Table1(
        measured,
        {
            reading: {name: total / measured for name, total in totals.items()}
            for reading, totals in sums.items()
        },
        {name: float(np.median(times)) for name, times in seconds.items()},
        tuple(failed),
    )


def write(
    out: Path,
    *,
    data: Path,
    encoder: str,
    weights: str,
    num_images: int | None = None,
    seed: int = 0,
    fusion_stride: int = 4,
    image_size: int = 320,
) -> Table1:
    """Measure the network that stage 1 begins with; write the numbers to `tab1.json` in `out`.

    Raises:
        DataError: as `measure` does.
        WeightsError: the encoder's weights cannot be had or do not fit.
    """
    activator = untrained(
        encoder=encoder,
        weights=weights,
        seed=seed,
        fusion_stride=fusion_stride,
        image_size=image_size,
    )
    table = measure(data, activator=activator, num_images=num_images)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "tab1.json", asdict(table))
    return table
