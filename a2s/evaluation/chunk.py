"""Scores of some pairs of prediction and truth: what one worker of `a2s evaluate` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from a2s.data.arrays import U8
from a2s.data.images import BadImage
from a2s.data.masks import decode_map, decode_truth
from a2s.errors import DataError
from a2s.evaluation import metrics
from a2s.evaluation.dataset_scores import OWN, RowScores
from a2s.evaluation.pairs import PictureFile
from a2s.evaluation.table import BASELINES
from a2s.models.centre import centre
from a2s.storage import machine
from a2s.storage.failures import Failure, failure

T = TypeVar("T")
SCHEMA = [
    ("key", "string"),
    *((name, "float64") for name in metrics.NAMES),
    *((f"{row}_{name}", "float64") for row in BASELINES for name in ("adaptive_f", "mae")),
    ("touches_border", "bool"),
    ("width", "int32"),
    ("height", "int32"),
    ("resized", "bool"),
    ("empty_truth", "bool"),
    ("full_truth", "bool"),
    ("graded_truth", "bool"),
]


@dataclass(frozen=True)
class Pair:
    """A prediction and its truth, and where it was computed, the image's map of RBD."""

    key: str
    prediction: PictureFile
    truth: PictureFile
    rbd: PictureFile | None = None


@dataclass
class Part:
    """What scoring one chunk gave."""

    number: int
    num_pairs: int
    totals: RowScores = field(default_factory=RowScores)
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    meanings: Counter[str] = field(default_factory=Counter)
    """How many truths were read in which way (`data.masks.MEANINGS`)."""


def score_chunk(
    item: tuple[int, list[Pair]], convention: metrics.ConventionName = "pysodmetrics"
) -> Part:
    """Score some pairs and the baselines on the same truths; a damaged file is listed, not raised.

    A pair without its prediction or truth has no row; without its map of RBD it has no score of it.
    """
    machine.keep_freed_memory()
    number, pairs = item
    part, rules = Part(number, len(pairs)), metrics.CONVENTIONS[convention]
    for pair in pairs:
        prediction_HW = _read(pair.key, pair.prediction, part.failures, decode_map)
        truth = None
        if prediction_HW is not None:
            truth = _read(pair.key, pair.truth, part.failures, decode_truth)
        if prediction_HW is None or truth is None:
            continue
        mask_HW, meaning = truth
        part.meanings[meaning] += 1
        truth_HW = metrics.binary_truth(mask_HW, rules)
        maps = {
            OWN: _resized(prediction_HW, truth_HW.shape),
            "centre": centre(*truth_HW.shape),
        }
        rbd_HW = _read(pair.key, pair.rbd, part.failures, decode_map) if pair.rbd else None
        if rbd_HW is not None:
            maps["rbd"] = _resized(rbd_HW, truth_HW.shape)
        found = metrics.score_each([*maps.values()], truth_HW, rules)
        scores = dict(zip(maps, found, strict=True))
        part.totals.add(scores)
        own = scores.pop(OWN)
        part.rows.append(
            {
                "key": pair.key,
                **own.row(),
                **_baseline_columns(scores),
                "touches_border": own.touches_border,
                "width": truth_HW.shape[1],
                "height": truth_HW.shape[0],
                "resized": prediction_HW.shape != truth_HW.shape,
                "empty_truth": not truth_HW.any(),
                "full_truth": bool(truth_HW.all()),
                "graded_truth": bool(((mask_HW > 0) & (mask_HW < 255)).any()),
            }
        )
    return part


def halves(item: tuple[int, list[Pair]]) -> list[tuple[int, list[Pair]]]:
    """Both halves of a chunk; none of a chunk of one pair."""
    number, pairs = item
    middle = len(pairs) // 2
    return [(number, pairs[:middle]), (number, pairs[middle:])] if middle else []


def merged(item: tuple[int, list[Pair]], parts: list[Part]) -> Part:
    """The result of a chunk from those of its parts, in order."""
    number, pairs = item
    whole = Part(number, len(pairs))
    for part in parts:
        whole.totals.merge(part.totals)
        whole.rows += part.rows
        whole.failures += part.failures
        whole.meanings += part.meanings
    return whole


def given_up(item: tuple[int, list[Pair]], reason: str, detail: str) -> Part:
    """The result of a chunk of one pair that ends the process that scores it."""
    number, (pair,) = item
    return Part(number, 1, failures=[failure(pair.key, pair.prediction.path, reason, detail)])


def _read(
    key: str, side: PictureFile, failures: list[Failure], decode: Callable[[bytes], T]
) -> T | None:
    """Decode a picture; a failure is appended to the list."""
    try:
        return decode(side.read())
    except DataError as error:
        reason = error.reason if isinstance(error, BadImage) else "unreadable"
        failures.append(failure(key, side.path, reason, str(error)))
        return None


def _resized(map_HW: U8, shape: tuple[int, ...]) -> U8:
    if map_HW.shape == shape:
        return map_HW
    import cv2

    resized_HW = cv2.resize(map_HW, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized_HW, dtype=np.uint8)


def _baseline_columns(scores: Mapping[str, metrics.ImageScores]) -> dict[str, float]:
    return {
        f"{name}_{column}": getattr(found, column)
        for name, found in scores.items()
        for column in ("adaptive_f", "mae")
    }


def in_order(parts: Iterator[Part]) -> Iterator[Part]:
    """Yield parts in the order of their keys; they arrive as they finish."""
    waiting: dict[int, Part] = {}
    expected = 0
    for part in parts:
        waiting[part.number] = part
        while expected in waiting:
            yield waiting.pop(expected)
            expected += 1
    assert not waiting
