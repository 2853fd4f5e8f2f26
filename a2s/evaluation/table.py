"""Rows and columns of score tables, the same wherever scores are printed or written. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BASELINES = {
    "centre": "centre: one Gaussian in the middle of every image",
    "rbd": "RBD, without training",
}
"""Rows that every table has: prefix of their keys in scores.json, and their titles.

A detector that is not better than these has learned nothing that its scores could show.
"""
BORDER_COLUMNS = (
    ("F touching", "adaptive_f_touching"),
    ("F others", "adaptive_f_not_touching"),
    ("ring share", "ring_share"),
)
RUN_TITLES = {
    "maps": "activation maps (stage 1)",
    "labels": "pseudo labels (CRF, median)",
    "detector": "detector (stage 2)",
    "bundled": "bundled detector",
    **BASELINES,
}
"""Rows of the table of `a2s run`."""
RUN_COLUMNS = (
    ("adaptive F", "adaptive_f"),
    *BORDER_COLUMNS,
    ("mean F", "mean_f"),
    ("max F", "max_f"),
    ("weighted F", "weighted_f"),
    ("S", "s_measure"),
    ("MAE", "mae"),
)
NONE = "–"

Columns = Sequence[tuple[str, str]]
"""Titles, and keys of scores.json."""


def baseline(scores: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the scores of a baseline as if scores.json were its own; None: it was not scored."""
    prefix = f"{name}_"
    found = {key.removeprefix(prefix): scores[key] for key in scores if key.startswith(prefix)}
    return found or None


def cell(scores: Mapping[str, Any], column: str, digits: int) -> str:
    """Format one value, which may be missing."""
    value = scores.get(column)
    return NONE if value is None else f"{value:.{digits}f}"


def text_lines(rows: Mapping[str, Mapping[str, Any] | str], columns: Columns) -> Iterable[str]:
    """Format a table for a terminal; a row may be a text instead of scores."""
    first = max(map(len, rows))
    widths = [max(len(title), 6) for title, _ in columns]
    titles = [title.rjust(width) for (title, _), width in zip(columns, widths, strict=True)]
    yield "  ".join([" " * first, *titles])
    for name, scores in rows.items():
        if isinstance(scores, str):
            yield f"{name:<{first}}  {scores}"
            continue
        cells = [
            cell(scores, key, 4).rjust(width)
            for (_, key), width in zip(columns, widths, strict=True)
        ]
        yield "  ".join([name.ljust(first), *cells])


def markdown_lines(
    rows: Mapping[str, Mapping[str, Any]], columns: Columns, *, first: str
) -> Iterable[str]:
    """Format a table as Markdown; `first` is the title of the first column."""
    yield f"| {first} | " + " | ".join(title for title, _ in columns) + " |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, scores in rows.items():
        yield f"| {name} | " + " | ".join(cell(scores, key, 3) for _, key in columns) + " |"


def border_note(scores: Mapping[str, Any]) -> str:
    """Say in a sentence what the border columns mean, with the numbers of the truths."""
    total, touching = scores["num_images"], scores["num_touching"]
    return (
        f"F touching is adaptive F of the {touching:,} of {total:,} images whose object touches the"
        f" image border, F others of the other {total - touching:,}; ring share is the mean of the"
        f" stretched map on the outermost pixels, {scores['truth_ring_share']:.4f} in the truths"
    )
