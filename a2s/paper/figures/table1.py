"""Table I: inter-class variance and time of three thresholds on maps before training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from a2s.data.images import decode
from a2s.data.index import Index
from a2s.errors import DataError
from a2s.paper.figures.activator import Activator
from a2s.paper.figures.thresholds import SCALINGS, STRATEGIES, inter_class_variance
from a2s.storage.files import read_json, write_json
from a2s.storage.hashing import digest


@dataclass(frozen=True)
class Table1:
    """Mean V (Eqn 2) over the images by scaling and strategy, and the median time per image.

    `failed` are the keys of images that could not be read; they are in no number.
    """

    num_images: int
    variance: dict[str, dict[str, float]]
    time_per_image_sec: dict[str, float]
    failed: tuple[str, ...]


def measure(data: Path, *, activator: Activator) -> Table1:
    """Measure on all images of data shards, one at a time.

    Maps have the network's own resolution. Times are measured on the min-max map.

    Raises:
        DataError: `data` holds no shards, or no image of them can be read.
    """
    index = Index.load(data)
    count = len(index)
    sums = {scaling: dict.fromkeys(STRATEGIES, 0.0) for scaling in SCALINGS}
    seconds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    failed = []
    for row in range(count):
        try:
            theta_hw = activator(decode(index.read(row)))
        except DataError:
            failed.append(index.key(row))
            continue
        for name, strategy in STRATEGIES.items():
            for scaling, to_unit in SCALINGS.items():
                values_hw = to_unit(theta_hw)
                start = time.perf_counter()
                threshold = strategy(values_hw)
                if scaling == "min-max":
                    seconds[name].append(time.perf_counter() - start)
                sums[scaling][name] += inter_class_variance(values_hw, threshold)
    measured = count - len(failed)
    if not measured:
        raise DataError(f"{data}: none of {count} images can be read")
    return Table1(
        measured,
        {
            scaling: {name: total / measured for name, total in totals.items()}
            for scaling, totals in sums.items()
        },
        {name: float(np.median(times)) for name, times in seconds.items()},
        tuple(failed),
    )


def write(
    out: Path,
    *,
    data: Path,
    made_from: Mapping[str, str | int],
    activator: Callable[[], Activator],
) -> Table1:
    """Measure all images and write the numbers to `tab1.json` in `out`, unless it is up to date.

    `made_from` identifies the network, `activator` builds it.

    Raises:
        DataError: as `measure` does.
    """
    origin = {"data": Index.load(data).fingerprint, **made_from}
    file = out / "tab1.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        known = read_json(file)
        is_same = known.pop("made_from", None) == origin
        if is_same and known.pop("sha256", None) == digest(known):
            return Table1(**{**known, "failed": tuple(known["failed"])})
    table = measure(data, activator=activator())
    out.mkdir(parents=True, exist_ok=True)
    numbers = asdict(table)
    write_json(file, {**numbers, "made_from": origin, "sha256": digest(numbers)})
    return table
