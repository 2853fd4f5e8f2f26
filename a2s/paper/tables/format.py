"""Tables as Markdown and CSV: our numbers, the paper's, and how the runs differ. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from a2s.paper import numbers
from a2s.paper.numbers import Score
from a2s.storage.parsing import printable

METRICS = (
    "adaptive_f",
    "mae",
    "mean_f",
    "max_f",
    "max_f_official",
    "weighted_f",
    "s_measure",
    "e_measure",
    "e_adaptive",
    "num_images",
    "adaptive_f_touching",
    "adaptive_f_not_touching",
    "num_touching",
    "ring_share",
    "truth_ring_share",
)
"""Keys of scores.json that become columns of the CSV file."""
EXTRAS = {"parameters_m": "parameters, M", "hours": "hours"}
"""Optional columns and their titles."""
NONE = "–"


@dataclass(frozen=True)
class Line:
    """A row of a table: our scores and the paper's by set; `x` is its position on a curve."""

    name: str
    title: str
    ours: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    paper: Mapping[str, Score] = field(default_factory=dict)
    extras: Mapping[str, float] = field(default_factory=dict)
    paper_extras: Mapping[str, float] = field(default_factory=dict)
    x: float | None = None


@dataclass(frozen=True)
class Table:
    """A reproduced table of the paper; `sets` are in the order of the columns.

    `paper_sets` are sets that only the paper has scored.
    """

    title: str
    sets: tuple[str, ...]
    lines: tuple[Line, ...]
    paper_sets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    x_name: str = ""

    def paper_knows(self, name: str) -> bool:
        """Whether the paper has a number for this set in any row."""
        return any(name in line.paper for line in self.lines)

    def knows_border(self, name: str) -> bool:
        """Whether any row was scored on this set by the image border."""
        return any("ring_share" in line.ours.get(name, {}) for line in self.lines)

    def extras(self) -> list[str]:
        """The extra columns that some row has."""
        return [e for e in EXTRAS if any(e in line.extras for line in self.lines)]


def markdown(table: Table) -> str:
    """Format the table as Markdown with its notes below it."""
    header = ["row", ""]
    for name in table.sets:
        known = ["paper"] if table.paper_knows(name) else []
        border = ["F touching / others", "ring share"] if table.knows_border(name) else []
        header += [f"{name} F", *known, "MAE", *known, *border]
    header += [f"{name} {what}, paper" for name in table.paper_sets for what in ("F", "MAE")]
    extras = table.extras()
    for extra in extras:
        known = ["paper"] if any(extra in line.paper_extras for line in table.lines) else []
        header += [EXTRAS[extra], *known]
    rows = [header, ["---"] * len(header)]
    for line in table.lines:
        cells = [line.name, line.title]
        for name in table.sets:
            ours, theirs = line.ours.get(name), line.paper.get(name)
            for number, metric in enumerate(("adaptive_f", "mae")):
                cells.append(_cell(ours[metric] if ours else None, 3))
                if table.paper_knows(name):
                    cells.append(_cell(theirs[number] if theirs else None, 3))
            if table.knows_border(name):
                cells += _border_cells(ours or {})
        for name in table.paper_sets:
            cells += [_cell(value, 3) for value in line.paper.get(name, (None, None))]
        for extra in extras:
            cells.append(amount(line.extras.get(extra)))
            if any(extra in other.paper_extras for other in table.lines):
                cells.append(amount(line.paper_extras.get(extra)))
        rows.append(cells)
    return page(table.title, rows, table.notes)


def page(title: str, rows: Iterable[Sequence[str]], notes: Iterable[str]) -> str:
    """Format a title, a table (header, rule, rows) and a list of notes as Markdown."""
    table = ("| " + " | ".join(map(_as_text, row)) + " |" for row in rows)
    lines = [f"# {title}", "", *table, ""]
    return "\n".join([*lines, *(f"- {note}" for note in notes)]) + "\n"


def _as_text(text: str) -> str:
    """A cell of a Markdown table; a name in it is text, and neither markup nor another cell."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def csv_text(table: Table) -> str:
    """Format the table as CSV: one line per row and set, all metrics, then the paper's scores."""
    extras = table.extras()
    header = ["row", "title", "set", *METRICS, "paper_adaptive_f", "paper_mae"]
    header += [name for extra in extras for name in (extra, f"paper_{extra}")]
    lines: list[list[object]] = []
    for line in table.lines:
        for name in (*table.sets, *table.paper_sets):
            ours: Mapping[str, Any] = line.ours.get(name, {})
            cells: list[object] = [line.name, line.title, name]
            cells += [ours.get(metric, "") for metric in METRICS]
            cells += line.paper.get(name, ("", ""))
            for extra in extras:
                cells += [line.extras.get(extra, ""), line.paper_extras.get(extra, "")]
            lines.append(cells)
    return csv_of(header, lines)


def csv_of(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Format lines of cells as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return buffer.getvalue()


def differences(
    settings: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    num_train: int | None,
    num_test: Mapping[str, int],
) -> str:
    """List in one line how these runs differ from the paper's.

    `settings` holds the resolved settings of every run by stage, `num_test` the number of scored
    images by set.
    """
    parts = []
    encoders = _distinct(
        (s["encoder"]["name"], s["encoder"]["weights"]) for runs in settings.values() for s in runs
    )
    if encoders and encoders != [numbers.ENCODER]:
        ours = " and ".join(f"{name} {_weights(weights)}" for name, weights in encoders)
        parts.append(f"encoder {ours} (paper: {numbers.ENCODER[0]} with {numbers.ENCODER[1]})")
    if num_train is not None and num_train != numbers.NUM_TRAIN:
        parts.append(f"{num_train:,} images to learn from (paper: {numbers.NUM_TRAIN:,})")
    for stage, runs in settings.items():
        for name, theirs in numbers.SETTINGS[stage].items():
            values = _distinct(run[name] for run in runs)
            if values and values != [theirs]:
                ours = " and ".join(map(str, values))
                parts.append(f"{stage} {name} {ours} (paper: {theirs})")
    for name, count in num_test.items():
        known = numbers.set_name(name)
        if known is not None and count != numbers.NUM_IMAGES[known]:
            parts.append(f"{name}: {count:,} images (paper: {numbers.NUM_IMAGES[known]:,})")
    if not parts:
        return "Encoder, images, epochs and image size are the paper's."
    return f"Differs from the paper: {'; '.join(parts)}."


def _weights(weights: str) -> str:
    # Only a file's name: its path means nothing on another machine.
    is_file = PurePath(weights).is_absolute()
    shown = PurePath(weights).name if is_file else weights
    return "UNTRAINED" if weights == "none" else f"with {shown}"


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def amount(value: float | None) -> str:
    """Format hours or millions; small values get more digits."""
    return _cell(value, 2 if value is None or value >= 0.1 else 4)


def _border_cells(ours: Mapping[str, float]) -> list[str]:
    touching, others = (ours.get(f"adaptive_f_{name}") for name in ("touching", "not_touching"))
    both = f"{_cell(touching, 3)} / {_cell(others, 3)}"
    return [NONE if touching is None and others is None else both, _cell(ours.get("ring_share"), 3)]


def _cell(value: float | None, digits: int) -> str:
    return NONE if value is None else f"{value:.{digits}f}"
