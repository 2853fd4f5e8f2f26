"""What `evaluate` has written, as the page shows it: rows of the score table, curves, images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from numpy.typing import NDArray

from a2s.errors import DataError
from a2s.evaluation.page.charts import Line, line_chart
from a2s.evaluation.page.label_table import LabelTable
from a2s.evaluation.page.parts import Parts
from a2s.evaluation.score_files import read_curves, read_scores
from a2s.evaluation.table import BASELINES, RUN_COLUMNS, RUN_TITLES, baseline, cell

OURS = ("detector", "predictions", "labels", "maps")
"""The row whose images are looked at: the first one that a run has."""


@dataclass(frozen=True)
class ScoreRow:
    """A row of the score table."""

    name: str
    title: str
    scores: Mapping[str, Any]

    @property
    def cells(self) -> list[str]:
        """Its values as they are printed, in the order of `RUN_COLUMNS`."""
        return [cell(self.scores, column, 3) for _, column in RUN_COLUMNS]


@dataclass(frozen=True)
class PerImage:
    """Adaptive F of every scored image, the lowest first."""

    keys: list[str]
    f_N: NDArray[np.float64]


def score_rows(parts: Parts) -> list[ScoreRow]:
    """Read the scores of a run, in the order of its table; rows of other names come after it.

    Raises:
        DataError: a scores.json is damaged, or of another program.
    """
    found = {name: read_scores(folder / "scores.json") for name, folder in parts.scores.items()}
    for name in OURS:
        if name in found:
            for base in BASELINES:
                values = baseline(found[name], base)
                if values is not None:
                    found.setdefault(base, values)
            break
    ordered = [name for name in ("predictions", *RUN_TITLES) if name in found]
    ordered += [name for name in found if name not in ordered]
    return [ScoreRow(name, RUN_TITLES.get(name, name), found[name]) for name in ordered]


def our_row(rows: list[ScoreRow]) -> ScoreRow | None:
    """The row that a run is judged by."""
    by_name = {row.name: row for row in rows}
    return next((by_name[name] for name in OURS if name in by_name), None)


def curve_charts(parts: Parts, rows: list[ScoreRow]) -> tuple[list[Markup], list[str]]:
    """Draw precision over recall and F over the threshold; return the rows without curves too."""
    curves, without = {}, []
    for row in rows:
        folder = parts.scores.get(row.name)
        if folder is None:
            continue
        if (folder / "curves.json").exists():
            curves[row.name] = read_curves(folder / "curves.json")
        else:
            without.append(row.name)
    return draw_curves(curves), without


def draw_curves(curves: Mapping[str, Mapping[str, list[float]]]) -> list[Markup]:
    """Draw the curves of several rows in two charts; nothing without curves."""
    if not curves:
        return []
    pr = [Line(name, of["recall"], of["precision"]) for name, of in curves.items()]
    f = [Line(name, range(256), of["f"][::-1]) for name, of in curves.items()]
    best = ", ".join(f"{line.name} {max(line.y):.3f}" for line in f)
    return [
        line_chart(
            "Precision and recall",
            pr,
            x_name="recall",
            y_name="precision",
            alt=f"Mean precision over mean recall of {', '.join(curves)}.",
            limits=(0, 1.02),
        ),
        line_chart(
            "F over the threshold",
            f,
            x_name="threshold",
            y_name="F (β² = 0.3)",
            alt=f"Mean F over the threshold; largest values: {best}.",
            limits=(0, 1.02),
        ),
    ]


def per_image(folder: Path) -> PerImage:
    """Read the adaptive F of every image.

    Raises:
        DataError: the table cannot be read.
    """
    path = folder / "images.parquet"
    try:
        table = pq.read_table(path, columns=["key", "adaptive_f"]).sort_by("adaptive_f")
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); evaluate again") from error
    return PerImage(table["key"].to_pylist(), table["adaptive_f"].to_numpy())


def calibration(table: LabelTable, scored: PerImage) -> Markup | None:
    """Compare the expected F of labels with their true F, by tenths; None: too few have both."""
    if table.ranked_by != "quality":
        return None
    true_f = dict(zip(scored.keys, scored.f_N.tolist(), strict=True))
    pairs = [(row.numbers["quality"], true_f[row.key]) for row in table.sample if row.key in true_f]
    if len(pairs) < 20:
        return None
    tenths = [part.mean(axis=0) for part in np.array_split(np.array(sorted(pairs)), 10)]
    expected, true = (np.array(side) for side in zip(*tenths, strict=True))
    return line_chart(
        "Expected and true F of labels",
        [Line("labels, in tenths", expected, true), Line("as good as expected", (0, 1), (0, 1))],
        x_name="expected F (quality)",
        y_name="true adaptive F",
        alt=f"Mean true F over mean expected F of {len(pairs)} labels in tenths; mean difference "
        f"{float(np.abs(expected - true).mean()):.2f}.",
        limits=(0, 1.02),
    )
