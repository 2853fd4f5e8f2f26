"""What `a2s evaluate` prints about the scores of a set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from a2s.data import masks
from a2s.evaluation import metrics, verdict
from a2s.evaluation.table import BASELINES, baseline, border_note, text_lines

NOTES = {
    "which_f": "adaptive F (threshold min(2*mean, 1) per image) is the paper's ave-F; mean F and"
    " max F are of the F curve averaged over images (256 thresholds, pysodmetrics), max F off. of"
    " the averaged precision and recall (the authors' code); beta^2 0.3, weighted F: 1",
    "which_e": "e_measure: mean over 256 thresholds; e_adaptive: adaptive threshold",
}
CONVENTIONS = {"pysodmetrics": metrics.LIBRARY, "official": "the paper's authors' code"}


def read_as(meaning: str) -> str:
    """Name in scores.json of the number of truths that were read in this way."""
    return f"num_truth_as_{meaning.replace(' ', '_')}"


def report_lines(
    scores: Mapping[str, Any],
    columns: Sequence[tuple[str, str]],
    *,
    convention: metrics.ConventionName,
    with_rbd: bool,
) -> Iterator[str]:
    """The table of scores, and what one should know to read it."""
    numbers = CONVENTIONS[convention]
    yield f"evaluate: {scores['num_images']:,} images, numbers of {numbers}"
    absent = "none of its maps could be read" if with_rbd else "--images DIR adds this row"
    baselines = {name: baseline(scores, name) or absent for name in BASELINES}
    yield from text_lines({"predictions": scores, **baselines}, columns)
    yield border_note(scores)
    yield f"which F: {NOTES['which_f']}"
    meanings = {name: scores[read_as(name)] for name in masks.MEANINGS}
    if text := masks.describe(meanings, what="truths"):
        yield text
    if scores["num_graded_truth"]:
        above = "128" if convention == "pysodmetrics" else "half of their own range"
        yield (
            f"{scores['num_graded_truth']:,} truths hold greys between 0 and 255; what is above"
            f" {above} counts as salient"
        )
    if warning := verdict.inverted(scores):
        yield f"warning: {warning}"
    if scores["num_resized"]:
        yield f"{scores['num_resized']:,} predictions were resized to their truth's size"
    if scores["num_empty_truth"]:
        yield f"{scores['num_empty_truth']:,} truths have no salient pixel; their F counts as 0"
