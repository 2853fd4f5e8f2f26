"""Figure 9: MAE of the activation maps after every epoch, for five decision boundaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from a2s.paper.tables.charts import Series, over_epochs
from a2s.paper.tables.format import NONE, amount, csv_of, page
from a2s.paper.tables.results import (
    CENTRE,
    centre_of,
    hours_of,
    notes_of,
    read_log,
    scores_of,
    write_if_new,
)
from a2s.paper.tables.rows import Material, Row, rbd_row, scored_maps, stage1_job
from a2s.pipeline import Job

BOUNDARIES = {
    "DB1": ("db1", "distance to the training set's mean"),
    "DB2": ("db2", "similarity to the image's mean"),
    "DB3": ("db3", "similarity of the distance from it"),
    "DB4": ("db4", "learned weights"),
    "DB5": ("adb", "adaptive (ADB)"),
}


def fig9_rows(material: Material) -> list[Row]:
    """Build a row per boundary that trains and scores one epoch after the other.

    Every boundary, also DB5, has its own run: a run that has passed an epoch can no longer make the
    maps of it.
    """
    epochs = range(1, material.stage1["epochs"] + 1)
    rows = []
    for name, (boundary, title) in BOUNDARIES.items():
        out = material.out / "rows" / f"epochs-boundary-{boundary}"
        scores = {
            f"{scored.name}/{epoch}": out / "scores" / f"epoch-{epoch:03d}-{scored.name}"
            for scored in material.scored
            for epoch in epochs
        }
        jobs = (*material.packing, *_epoch_jobs(material, out, boundary, epochs))
        run = out / "stage1"
        rows.append(Row(name, title, jobs, scores, (("stage1", run),), (run,)))
    return [*rows, rbd_row(material, material.scored)]


def _epoch_jobs(material: Material, out: Path, boundary: str, epochs: range) -> Iterator[Job]:
    for epoch in epochs:
        changes = {"parity": {"boundary": boundary}, "until_epoch": epoch}
        scoring, folders = scored_maps(
            material, out / "stage1", out, f"epoch-{epoch:03d}", material.scored
        )
        # A run that has passed this epoch cannot make its maps any more.
        if len(scores_of(folders)) < len(folders):
            yield stage1_job(material, out, **changes)
            yield from scoring


def write_fig9(material: Material, rows: Sequence[Row]) -> str:
    """Write fig9.md (last and best epoch), fig9.csv (all), fig9.svg (curves); return the first."""
    sets = [scored.name for scored in material.scored]
    log = read_log(material.out)
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = {name: {} for name in sets}
    lines: list[list[object]] = []
    header = [
        "row",
        "",
        *(f"{s} MAE, {which}" for s in sets for which in ("last", "best")),
        "hours",
    ]
    table = [header, ["---"] * len(header)]
    scored = []
    for row in rows:
        found = scores_of(row.scores)
        cells = [row.name, row.title]
        for name in sets:
            epochs = {
                int(k.rpartition("/")[2]): v for k, v in found.items() if k.startswith(f"{name}/")
            }
            mae = [epochs[epoch]["mae"] for epoch in sorted(epochs)]
            lines += [
                [row.name, name, epoch, epochs[epoch]["mae"], epochs[epoch]["adaptive_f"]]
                for epoch in sorted(epochs)
            ]
            if mae:
                series[name][row.name] = (sorted(epochs), mae)
            scored += [(name, values) for values in epochs.values()]
            if name in found:
                # A baseline has no epochs.
                scored.append((name, found[name]))
                mae = [found[name]["mae"]]
                lines.append(_constant(row.name, name, found[name]))
            cells += _last_and_best(mae)
        hours = hours_of(material, row.timed, log)
        table.append([*cells, amount(hours or None)])
    centre = centre_of(scored)
    lines += [_constant("centre", name, values) for name, values in centre.items()]
    last = ["centre", CENTRE]
    for name in sets:
        last += _last_and_best([centre[name]["mae"]] if name in centre else [])
    table.append([*last, NONE])
    text = page("Fig. 9: decision boundaries", table, notes_of(material, rows, scored, "fig9"))
    write_if_new(material.out / "fig9.md", text)
    write_if_new(
        material.out / "fig9.csv", csv_of(["row", "set", "epoch", "mae", "adaptive_f"], lines)
    )
    by_set: dict[str, Series] = {name: dict(values) for name, values in series.items()}
    svg = over_epochs(by_set, y_name="MAE", title="Fig. 9")
    write_if_new(material.out / "fig9.svg", svg)
    return text


def _constant(row: str, name: str, scores: Mapping[str, Any]) -> list[object]:
    return [row, name, "", scores["mae"], scores["adaptive_f"]]


def _last_and_best(mae: Sequence[float]) -> list[str]:
    return [f"{mae[-1]:.3f}", f"{min(mae):.3f}"] if mae else [NONE, NONE]
