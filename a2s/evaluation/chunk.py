"""Scores of some pairs of prediction and truth: what one worker of `a2s evaluate` does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from a2s.data.images import BadImage, decode_mask
from a2s.errors import DataError
from a2s.evaluation import metrics
from a2s.evaluation.dataset_scores import DatasetScores
from a2s.evaluation.pairs import PictureFile
from a2s.storage.failures import Failure, failure

SCHEMA = [
    ("key", "string"),
    *((name, "float64") for name in metrics.NAMES),
    ("width", "int32"),
    ("height", "int32"),
    ("resized", "bool"),
    ("empty_truth", "bool"),
    ("graded_truth", "bool"),
]


@dataclass(frozen=True)
class Pair:
    """A prediction and its truth."""

    key: str
    prediction: PictureFile
    truth: PictureFile


@dataclass
class Part:
    """What scoring one chunk gave."""

    number: int
    totals: DatasetScores = field(default_factory=DatasetScores)
    rows: list[dict[str, Any]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def score_chunk(
    item: tuple[int, list[Pair]], convention: metrics.ConventionName = "pysodmetrics"
) -> Part:
    """Score some pairs; a damaged file is reported, not raised."""
    number, pairs = item
    part, rules = Part(number), metrics.CONVENTIONS[convention]
    for pair in pairs:
        side = pair.prediction
        try:
            prediction_HW = decode_mask(side.read())
            side = pair.truth
            mask_HW = decode_mask(side.read())
        except DataError as error:
            reason = error.reason if isinstance(error, BadImage) else "unreadable"
            part.failures.append(failure(pair.key, side.path, reason, str(error)))
            continue
        truth_HW = metrics.binary_truth(mask_HW, rules)
        resized = prediction_HW.shape != truth_HW.shape
        if resized:
            import cv2

            size = truth_HW.shape[::-1]
            prediction_HW = np.asarray(
                cv2.resize(prediction_HW, size, interpolation=cv2.INTER_LINEAR), dtype=np.uint8
            )
        scores = metrics.score(prediction_HW, truth_HW, rules)
        part.totals.add(scores)
        part.rows.append(
            {
                "key": pair.key,
                **scores.row(),
                "width": truth_HW.shape[1],
                "height": truth_HW.shape[0],
                "resized": resized,
                "empty_truth": not truth_HW.any(),
                "graded_truth": bool(((mask_HW > 0) & (mask_HW < 255)).any()),
            }
        )
    return part
