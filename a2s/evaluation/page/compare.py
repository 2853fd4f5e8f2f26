"""Several runs side by side: scores, labels, settings that differ, curves, the same images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from a2s.evaluation.page.charts import Line, line_chart
from a2s.evaluation.page.label_table import find_rows
from a2s.evaluation.page.one_run import SHOWN, RunView
from a2s.evaluation.page.scored import draw_curves
from a2s.evaluation.page.strips import Strip, Wanted
from a2s.evaluation.score_files import read_curves
from a2s.evaluation.table import RUN_COLUMNS, cell

PATHS = ("out", "images", "test", "truth", "data", "labels", "model", "cache_dir", "pred")
"""Settings that say where things lie, not what was done."""


@dataclass
class Table:
    """A table with a title for every row."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[str]]] = field(default_factory=list)


@dataclass
class Comparison:
    """What the page shows of several runs together."""

    tables: list[Table]
    charts: list[Markup]
    strips: list[Strip]
    other_scores: str = ""
    """Why the scores must not be compared; "" if they may."""


def compare(views: Sequence[RunView]) -> Comparison:
    """Set several runs side by side."""
    tables = [_scores(views), _labels(views), _settings(views)]
    return Comparison(
        [table for table in tables if table.rows], _charts(views), _strips(views), _other(views)
    )


def _scores(views: Sequence[RunView]) -> Table:
    table = Table("Scores", [title for title, _ in RUN_COLUMNS])
    for title in dict.fromkeys(row.title for view in views for row in view.scores):
        for view in views:
            table.rows += [
                (f"{view.letter}: {title}", row.cells) for row in view.scores if row.title == title
            ]
    return table


def _labels(views: Sequence[RunView]) -> Table:
    titles = {"labels": "number of labels", "empty": "empty", "no_object": "no object"}
    means = {
        "quality": "mean expected F",
        "area_share": "mean area",
        "border_contact": "mean border contact",
        "map_overlap": "mean overlap with the map",
        "crf_agreement": "mean overlap before and after the CRF",
    }
    table = Table("Labels", [view.letter for view in views])
    if not any(view.labels for view in views):
        return table
    for name, title in titles.items():
        cells = []
        for view in views:
            of = view.labels
            counts = {"labels": of.num_labels, "empty": of.num_empty, **of.flags} if of else {}
            cells.append(f"{counts[name]:,}" if name in counts else "–")
        table.rows.append((title, cells))
    for name, title in means.items():
        known = [view.labels and name in view.labels.counts for view in views]
        if any(known):
            cells = [
                f"{view.labels.mean(name):.3f}" if has and view.labels else "–"
                for view, has in zip(views, known, strict=True)
            ]
            table.rows.append((title, cells))
    moved = [f"{view.moved.mean('changed_share'):.2%}" if view.moved else "–" for view in views]
    if any(cell != "–" for cell in moved):
        table.rows.append(("mean share of moved pixels", moved))
    return table


def _settings(views: Sequence[RunView]) -> Table:
    table = Table("Settings that differ", [view.letter for view in views])
    flat = [dict(_flat(view.parts.settings)) for view in views]
    for name in dict.fromkeys(name for one in flat for name in one):
        values = [one.get(name, "–") for one in flat]
        if len(set(values)) > 1 and name.split(".")[-1] not in PATHS:
            table.rows.append((name, values))
    if len({view.parts.command for view in views}) > 1:
        table.rows.insert(0, ("command", [view.parts.command for view in views]))
    return table


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False, default=str)


def _charts(views: Sequence[RunView]) -> list[Markup]:
    curves = {}
    for view in views:
        ours = view.ours
        folder = view.parts.scores.get(ours.name) if ours else None
        if ours and folder and (folder / "curves.json").exists():
            name = f"{view.letter} {ours.name}"
            curves[name] = read_curves(folder / "curves.json")
    charts = draw_curves(curves) if len(curves) > 1 else []
    for stage in ("stage1", "stage2"):
        logs = {view.letter: getattr(view, stage) for view in views}
        lines = [
            Line(letter, log.epochs, log.losses["loss"])
            for letter, log in logs.items()
            if log and log.epochs
        ]
        if len(lines) > 1:
            title = stage.replace("stage", "Stage ")
            last = ", ".join(f"{line.name} {line.y[-1]:.3f}" for line in lines)
            charts.append(
                line_chart(
                    f"{title}: loss",
                    lines,
                    x_name="epoch",
                    y_name="loss",
                    alt=f"Loss of {title.lower()} over epochs; last values: {last}.",
                )
            )
    return charts


def _strips(views: Sequence[RunView]) -> list[Strip]:
    """Show images that all runs have labels of: the worst of the first run, and random ones."""
    with_labels = [view for view in views if view.sources and view.labels]
    if len(with_labels) < 2 or with_labels[0].labels is None:
        return []
    first = with_labels[0].labels
    rows = [*first.worst[:SHOWN], *first.sample[: 4 * SHOWN]]
    keys = list(dict.fromkeys(row.key for row in rows))
    for view in with_labels[1:]:
        assert view.parts.labels is not None
        known = find_rows(view.parts.labels, keys)
        keys = [key for key in keys if key in known]
    wanted = [Wanted(key, "") for key in keys[: 2 * SHOWN]]
    per_run = [view.sources.strips(wanted) if view.sources else [] for view in with_labels]
    found = []
    for strips in zip(*per_run, strict=True):
        cells = [one for one in strips[0].cells if one.title in ("image", "truth")]
        for view, strip in zip(with_labels, strips, strict=True):
            cells += [
                one.renamed(f"{view.letter}: {one.title}")
                for one in strip.cells
                if one.title in ("label", "corrected label", "prediction")
            ]
        found.append(Strip(strips[0].name, "", cells))
    return found


def _other(views: Sequence[RunView]) -> str:
    """Scores of other images, or by another convention, must not be compared."""
    ours = [view.ours for view in views if view.ours]
    for name, what in (("num_images", "numbers of images"), ("convention", "conventions")):
        values = {
            cell(row.scores, name, 0) if name == "num_images" else str(row.scores.get(name))
            for row in ours
        }
        if len(values) > 1:
            return f"The scores are of different {what}: {', '.join(sorted(values))}."
    return ""
