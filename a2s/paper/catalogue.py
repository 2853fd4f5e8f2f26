"""Catalogue of the tables and figures of `a2s ablate`: rows as job lists, and a writer for each.

To add one, write two functions and name them in CATALOGUE: one builds the rows (their jobs) from a
`Material`; one reads what the jobs wrote, writes files to `Material.out` and returns the text to
print.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from a2s.config.parse import nearest
from a2s.errors import ConfigError
from a2s.paper import numbers
from a2s.paper.figures.fig9 import fig9_rows, write_fig9
from a2s.paper.figures.rows import (
    fig4_rows,
    fig7_rows,
    fig8_rows,
    fig11_rows,
    stage1_rows,
    tab1_rows,
    write_fig1,
    write_fig4,
    write_fig5,
    write_fig7,
    write_fig8,
    write_fig10,
    write_fig11,
    write_tab1,
)
from a2s.paper.tables.results import write_table
from a2s.paper.tables.rows import (
    Material,
    Row,
    common_jobs,
    detector_row,
    evaluate_job,
    label_job,
    labels_row,
    rbd_row,
    scored_maps,
)
from a2s.paper.tables.table3 import write_tab3

Need = Literal["nothing", "data", "masks", "tests"]
"""`data`: training images. `masks`: also masks of them or a test set. `tests`: also a test set."""
ALPHAS = (0.0, 0.1, 0.2, 0.3)
LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
CLASSICAL = ("DSR", "MC", "HS")


@dataclass(frozen=True)
class Entry:
    """A table or figure; `finish` gets all rows, finished or not, writes files, returns text."""

    title: str
    needs: Need
    rows: Callable[[Material], list[Row]]
    finish: Callable[[Material, Sequence[Row]], str]


def tab2_rows(material: Material) -> list[Row]:
    """Both stages, the training-free baselines, and any other folders of maps."""
    mark = " ‡" if "imagenet" in str(material.stage1["encoder"].weights) else ""
    stage1, shared = f"Stage 1{mark}", material.shared
    run = shared / "stage1"
    maps, map_scores = scored_maps(material, run, shared, "activation", material.tests)
    labels, label_scores = [], {}
    for scored in material.tests:
        label = label_job(material, shared, scored.name, scored.data)
        label_scores[scored.name] = shared / "scores" / f"labels-{scored.name}"
        labels += [label, evaluate_job(material, label.out, scored, label_scores[scored.name])]
    common, trained = common_jobs(material), (("stage1", run),)
    rows = [
        Row(
            "maps", "stage 1, activation maps", (*common, *maps), map_scores, trained, paper=stage1
        ),
        Row("labels", "stage 1, labels", (*common, *labels), label_scores, trained, paper=stage1),
        detector_row(material, "detector", "stage 2", {}, paper=f"Stage 2{mark}"),
    ]
    methods = [*CLASSICAL, *(m for m in material.maps if m not in (*CLASSICAL, "RBD"))]
    rows += [_given_maps(material, method) for method in methods]
    rows.append(
        _given_maps(material, "RBD")
        if "RBD" in material.maps
        else rbd_row(material, material.tests)
    )
    others = [name for name in numbers.TABLE_2 if name not in {row.paper for row in rows}]
    titles = {name: "supervised" for name in numbers.SUPERVISED}
    return rows + [Row(name, titles.get(name, ""), paper=name) for name in others]


def _given_maps(material: Material, method: str) -> Row:
    """Score the maps of another method, given with --maps, in the same way as ours."""
    sets = material.maps.get(method, {})
    jobs, scores = [], {}
    for scored in material.tests:
        if scored.name in sets:
            scores[scored.name] = material.shared / "scores" / f"given-{method}-{scored.name}"
            jobs.append(evaluate_job(material, sets[scored.name], scored, scores[scored.name]))
    return Row(
        method, "given maps" if sets else "", (*material.packing, *jobs), scores, paper=method
    )


def tab4_rows(material: Material) -> list[Row]:
    """Ablation of the parts of stage 1."""
    rows = [
        labels_row(material, name, title, changes, paper=name)
        for name, title, changes in (
            ("A0", "encoder trained as well", {"parity": {"encoder_mode": "trained"}}),
            ("A1", "no auxiliary supervision", {"map_weights": (1.0, 0.0, 0.0, 0.0)}),
            ("A2", "no dropped pixels", {"drop_pixels": False}),
            ("A3", "ours", {}),
        )
    ]
    return [*rows, rbd_row(material, material.scored)]


def tab5_rows(material: Material) -> list[Row]:
    """The weight of the L1 distance in Eqn 4."""
    rows = [
        labels_row(material, f"{a:g}", f"alpha {a:g}", {"alpha": a}, paper=f"{a:g}", x=a)
        for a in ALPHAS
    ]
    return [*rows, rbd_row(material, material.scored)]


def tab6_rows(material: Material) -> list[Row]:
    """The share of the old label in Eqn 14."""
    rows = [
        detector_row(material, f"{v:g}", f"lambda {v:g}", {"lam": v}, paper=f"{v:g}", x=v)
        for v in LAMBDAS
    ]
    return [*rows, rbd_row(material, material.tests)]


def tab7_rows(material: Material) -> list[Row]:
    """Three detectors, each with fixed labels (lambda 1) and with online label rectifying."""
    titles = {"minet": "MINet", "conv": "ours †, convolution for RAM", "ram": "ours"}
    rows = [
        detector_row(
            material, f"{name}{suffix}", f"{title}, {how} OLR", {"detector": name, **lam},
            paper=f"{name}{suffix}",
        )
        for suffix, how, lam in (("", "without", {"lam": 1.0}), ("-olr", "with", {}))
        for name, title in titles.items()
    ]  # fmt: skip
    return [*rows, rbd_row(material, material.tests)]


def tab8_rows(material: Material) -> list[Row]:
    """Label correction: online (OLR), and by historical moving averages between epochs (HMA)."""
    return [
        detector_row(
            material, "HMA", "historical moving averages", {"rectify": "hma"}, paper="HMA"
        ),
        detector_row(material, "OLR", "online label rectifying", {"rectify": "olr"}, paper="OLR"),
        rbd_row(material, material.tests),
    ]


def find(name: str) -> Entry:
    """Look up a table or figure by name.

    Raises:
        ConfigError: there is none; the message lists the known names.
    """
    if name not in CATALOGUE:
        raise ConfigError(
            f"ablate: no table or figure {name!r}{nearest(name, CATALOGUE)} "
            f"(known: {', '.join(CATALOGUE)})"
        )
    return CATALOGUE[name]


def pick(rows: Sequence[Row], names: str | None, *, table: str) -> list[Row]:
    """Select rows by a comma-separated list of names (`A1,A3`), and RBD; None selects all.

    Raises:
        ConfigError: the table has no such row; the message lists its rows.
    """
    if names is None:
        return list(rows)
    wanted = [name.strip() for name in names.split(",")]
    known = [row.name for row in rows]
    for name in wanted:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ConfigError(f"ablate: {table} has no row {name!r} (its rows: {listed})")
    return [row for row in rows if row.name in wanted or row.always]


def _table(
    name: str, title: str, rows: Callable[[Material], list[Row]], needs: Need, x_name: str = ""
) -> Entry:
    finish = functools.partial(write_table, name=name, title=title, x_name=x_name)
    return Entry(title, needs, rows, finish)


CATALOGUE: dict[str, Entry] = {
    "tab1": Entry("Table I: thresholds before training", "data", tab1_rows, write_tab1),
    "tab2": _table("tab2", "Table II: both stages and other methods", tab2_rows, "tests"),
    "tab3": Entry("Table III: runs and what they cost", "nothing", lambda material: [], write_tab3),
    "tab4": _table("tab4", "Table IV: parts of stage 1", tab4_rows, "masks"),
    "tab5": _table("tab5", "Table V: alpha", tab5_rows, "masks", "alpha"),
    "tab6": _table("tab6", "Table VI: lambda", tab6_rows, "tests", "lambda"),
    "tab7": _table("tab7", "Table VII: detectors, with and without OLR", tab7_rows, "tests"),
    "tab8": _table("tab8", "Table VIII: HMA and OLR", tab8_rows, "tests"),
    "fig1": Entry("Fig. 1: from activation maps to cues", "data", stage1_rows, write_fig1),
    "fig4": Entry("Fig. 4: cues of several methods", "data", fig4_rows, write_fig4),
    "fig5": Entry("Fig. 5: thresholds before training", "data", tab1_rows, write_fig5),
    "fig7": Entry("Fig. 7: labels and predictions by epoch", "data", fig7_rows, write_fig7),
    "fig8": Entry("Fig. 8: maps of several methods", "tests", fig8_rows, write_fig8),
    "fig9": Entry("Fig. 9: decision boundaries", "masks", fig9_rows, write_fig9),
    "fig10": Entry("Fig. 10: training images", "data", fig7_rows, write_fig10),
    "fig11": Entry("Fig. 11: channels of both modules", "data", fig11_rows, write_fig11),
}
