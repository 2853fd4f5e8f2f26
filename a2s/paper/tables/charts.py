"""Charts of our numbers and the paper's: bars by row, curves over a setting or epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from a2s.evaluation.curves import name_axes, panels, to_svg
from a2s.paper.tables.format import Line, Table

METRICS = {"adaptive_f": "adaptive F", "mae": "MAE"}
COLOURS = ("#1f5fa8", "#d9730d", "#2f8f4e", "#8a4fa3", "#b03a3a", "#6b6b6b")
_PANEL_IN = 5.6
_ROW_IN = 0.55

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By name: x values and y values."""


def bars(table: Table) -> str:
    """Draw our scores as bars by row and set, the paper's as black lines across them, as SVG."""
    width = max(_PANEL_IN, _ROW_IN * len(table.lines) * max(1, len(table.sets) / 2))
    figure, axes = panels(len(METRICS), width=width)
    share = 0.8 / max(1, len(table.sets))
    for panel, (metric, title) in zip(axes, METRICS.items(), strict=True):
        marked = False
        for number, name in enumerate(table.sets):
            left = [row - 0.4 + share * (number + 0.5) for row in range(len(table.lines))]
            ours = [
                (x, _ours(line, name, metric)) for x, line in zip(left, table.lines, strict=True)
            ]
            theirs = [
                (x, _paper(line, name, metric)) for x, line in zip(left, table.lines, strict=True)
            ]
            known = [(x, y) for x, y in ours if y is not None]
            panel.bar(
                [x for x, _ in known],
                [y for _, y in known],
                width=0.9 * share,
                color=COLOURS[number % len(COLOURS)],
                label=name,
            )
            marks = [(x, y) for x, y in theirs if y is not None]
            panel.hlines(
                [y for _, y in marks],
                [x - 0.45 * share for x, _ in marks],
                [x + 0.45 * share for x, _ in marks],
                color="black",
                linewidth=1.6,
                label=None if marked or not marks else "paper",
            )
            marked = marked or bool(marks)
        name_axes(panel, "", title, table.title if panel is axes[0] else "")
        names = [line.name for line in table.lines]
        panel.set_xticks(range(len(names)), names, rotation=35 if len(names) > 6 else 0)
        if table.sets:
            panel.legend(fontsize=8, frameon=False)
    return to_svg(figure)


def curve(table: Table) -> str:
    """Draw our scores over the setting, one curve per set, the paper's dashed, as SVG."""
    figure, axes = panels(len(METRICS))
    for panel, (metric, title) in zip(axes, METRICS.items(), strict=True):
        for number, name in enumerate(table.sets):
            colour = COLOURS[number % len(COLOURS)]
            for score_of, style, suffix in ((_ours, "-o", ""), (_paper, "--s", ", paper")):
                points = [(line.x, score_of(line, name, metric)) for line in table.lines]
                known = [(x, y) for x, y in points if x is not None and y is not None]
                if known:
                    x, y = zip(*known, strict=True)
                    panel.plot(x, y, style, color=colour, markersize=4, label=f"{name}{suffix}")
        name_axes(panel, table.x_name, title, table.title if panel is axes[0] else "")
        if panel.has_data():
            panel.legend(fontsize=8, frameon=False)
    return to_svg(figure)


def over_epochs(series_by_set: Mapping[str, Series], *, y_name: str, title: str) -> str:
    """Draw one panel per set with one curve per name over the epochs, as SVG."""
    figure, axes = panels(max(1, len(series_by_set)))
    for panel, (name, series) in zip(axes, series_by_set.items(), strict=False):
        for number, (label, (x, y)) in enumerate(series.items()):
            panel.plot(x, y, "-o", markersize=3, label=label, color=COLOURS[number % len(COLOURS)])
        name_axes(panel, "epoch", y_name, f"{title}, {name}")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_ylim(bottom=0)
        if series:
            panel.legend(fontsize=8, frameon=False)
    return to_svg(figure)


def _ours(line: Line, name: str, metric: str) -> float | None:
    scores = line.ours.get(name)
    return None if scores is None else float(scores[metric])


def _paper(line: Line, name: str, metric: str) -> float | None:
    score = line.paper.get(name)
    return None if score is None else score[list(METRICS).index(metric)]
