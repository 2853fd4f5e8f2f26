"""Everything that the page says of one run, gathered from its folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from a2s.data.images import decode_mask
from a2s.data.origin import refuse_folders_of_other_images
from a2s.errors import A2SError, DataError
from a2s.evaluation import verdict
from a2s.evaluation.page import facts, label_charts, logs, training_charts
from a2s.evaluation.page.label_table import LabelTable, Row, read_labels
from a2s.evaluation.page.parts import Parts
from a2s.evaluation.page.pictures import Position, position
from a2s.evaluation.page.scored import (
    PerImage,
    ScoreRow,
    calibration,
    curve_charts,
    our_row,
    per_image,
    score_rows,
)
from a2s.evaluation.page.strips import Network, Sources, Strip, Wanted, stored
from a2s.evaluation.pairs import PictureSet, find_truths, spread

SHOWN = 4
"""Strips of the best, the worst and of random images."""
PER_DECILE = 2
POSITION_SAMPLE = 300
POSITIONS = ("labels", "corrected labels", "predictions", "truths")


@dataclass
class Group:
    """Strips under a heading."""

    title: str
    strips: list[Strip]


@dataclass
class RunView:
    """What the page shows of one run."""

    letter: str
    parts: Parts
    facts: list[tuple[str, str]] = field(default_factory=list)
    command: str = ""
    settings: str = ""
    steps: list[tuple[str, str, float, int | None]] = field(default_factory=list)
    left_out: list[tuple[str, logs.LeftOut]] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)
    scores: list[ScoreRow] = field(default_factory=list)
    score_charts: list[Markup] = field(default_factory=list)
    labels: LabelTable | None = None
    label_charts: list[Markup] = field(default_factory=list)
    label_groups: list[Group] = field(default_factory=list)
    scored_groups: list[Group] = field(default_factory=list)
    positions: list[tuple[str, Position]] = field(default_factory=list)
    stage1: logs.TrainingLog | None = None
    stage2: logs.TrainingLog | None = None
    training_charts: list[Markup] = field(default_factory=list)
    moved: LabelTable | None = None
    olr_charts: list[Markup] = field(default_factory=list)
    moved_strips: list[Strip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is missing from the page, and why."""
    sources: Sources | None = None
    """Where the strips of labels come from."""

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.parts.folder.resolve().name

    @property
    def ours(self) -> ScoreRow | None:
        """The row that the run is judged by."""
        return our_row(self.scores)


def gather(parts: Parts, letter: str) -> RunView:
    """Read everything about a run; what is missing or damaged becomes a note.

    Raises:
        DataError: the labels of a run cannot be read at all, or were made of other images.
    """
    view = RunView(letter, parts)
    for labels, data in (
        (parts.labels, parts.data),
        (parts.rectified, parts.data),
        (parts.test_labels, parts.test_data),
    ):
        if labels is not None and data is not None:
            refuse_folders_of_other_images(labels, data, command="report")
    view.notes += [f"{path}: no longer there, its pictures are left out" for path in parts.gone]
    recorded = logs.environment(parts.folder)
    view.command = logs.command_line(recorded)
    view.settings = yaml.safe_dump(dict(parts.settings), sort_keys=False, allow_unicode=True)
    view.steps = logs.step_times(parts.folder)
    _gather_scores(view)
    _gather_labels(view)
    _gather_training(view)
    view.notes += view.sources.problems if view.sources is not None else []
    for log, name in ((view.stage1, "stage 1"), (view.stage2, "stage 2")):
        if log is not None and log.damaged:
            view.notes.append(f"{name}: {log.damaged} lines of metrics.jsonl cannot be read")
    view.positions.sort(key=lambda one: POSITIONS.index(one[0]))
    view.facts = facts.of_run(parts, recorded, view.labels)
    view.left_out = list(_left_out(parts))
    view.verdict = _judged(view)
    return view


def _gather_scores(view: RunView) -> None:
    parts = view.parts
    view.scores = score_rows(parts)
    if not view.scores:
        return
    view.score_charts, without = curve_charts(parts, view.scores)
    if without:
        view.notes.append(
            f"no curves of {', '.join(without)}: scored before evaluate wrote curves.json; a2s "
            "evaluate with another --out writes it"
        )
    ours = view.ours
    if ours is None or ours.name not in parts.scores:
        return
    scored = per_image(parts.scores[ours.name])
    view.score_charts.append(label_charts.f_histogram(scored.f_N))
    if parts.test_labels is not None and "labels" in parts.scores:
        chart = calibration(read_labels(parts.test_labels), per_image(parts.scores["labels"]))
        view.score_charts += [chart] if chart else []
    sources = Sources(
        parts.test_data,
        labels=parts.test_labels,
        maps=parts.maps,
        preds=parts.preds if ours.name in ("detector", "predictions") else None,
        truths=_truths(view, scored.keys),
    )
    view.scored_groups = _scored_groups(sources, scored)
    chosen = np.unique(np.linspace(0, len(scored.keys) - 1, POSITION_SAMPLE).astype(int))
    keys = [scored.keys[int(at)] for at in chosen]
    preds = parts.preds
    if preds is not None and not any(preds.glob("shard-*.json")):
        _add_position(view, "predictions", (lambda key=key: stored(preds, key) for key in keys))
    truths = sources.truths
    if truths is not None:
        known = [key for key in keys if key in truths.keys]
        _add_position(view, "truths", (lambda key=key: truths.picture(key) for key in known))
    view.notes += sources.problems


def _scored_groups(sources: Sources, scored: PerImage) -> list[Group]:
    order = np.arange(len(scored.keys))
    shuffled = np.random.default_rng(0).permutation(order)
    tenths = [part[len(part) // 2 :][:PER_DECILE] for part in np.array_split(order, 10)]

    def group(title: str, places: Sequence[int]) -> Group:
        wanted = [Wanted(scored.keys[at], f"adaptive F {scored.f_N[at]:.3f}") for at in places]
        return Group(title, sources.strips(wanted))

    return [
        group("Lowest F", order[:SHOWN].tolist()),
        group("Highest F", order[::-1][:SHOWN].tolist()),
        group("Random images", shuffled[:SHOWN].tolist()),
        group("Every tenth, from low to high F", np.concatenate(tenths).tolist()),
    ]


def _gather_labels(view: RunView) -> None:
    parts = view.parts
    if parts.labels is None:
        return
    view.labels = table = read_labels(parts.labels)
    view.notes += table.problems
    view.label_charts = label_charts.of_labels(table)
    _add_position(view, "labels", _pictures(parts.labels, table.sample[:POSITION_SAMPLE]))
    same_set = not parts.has_test_set
    maps = parts.maps if same_set else None
    preds = parts.preds if same_set else None
    view.sources = sources = Sources(
        parts.data,
        labels=parts.labels,
        rectified=parts.rectified,
        maps=maps or (Network(parts.label_model) if parts.label_model else None),
        preds=preds or (Network(parts.stage2) if parts.stage2 else None),
        truths=_truths(view, [row.key for row in table.sample]) if same_set else None,
    )

    def strips(rows: Sequence[Row]) -> list[Strip]:
        wanted = [Wanted(row.key, label_charts.caption(row, table), row.shard) for row in rows]
        return sources.strips(wanted)

    rank = label_charts.RANKS.get(str(table.ranked_by), "")
    if rank:
        view.label_groups += [
            Group(f"Lowest {rank}", strips(table.worst[:SHOWN])),
            Group(f"Highest {rank}", strips(table.best[:SHOWN])),
        ]
    view.label_groups.append(Group("Random labels", strips(table.sample[:SHOWN])))
    for number, rows in enumerate(table.deciles(PER_DECILE), start=1):
        if rows:
            low, high = (table.quantile(str(table.ranked_by), n / 10) for n in (number - 1, number))
            title = f"Tenth {number} of 10: {rank} {low:.2f} to {high:.2f}"
            view.label_groups.append(Group(title, strips(rows)))


def _gather_training(view: RunView) -> None:
    parts = view.parts
    if parts.stage1 is not None:
        view.stage1 = logs.training_log(parts.stage1)
        view.training_charts += training_charts.losses("Stage 1", view.stage1)
    if parts.stage2 is None:
        return
    view.stage2 = logs.training_log(parts.stage2)
    view.training_charts += training_charts.losses("Stage 2", view.stage2)
    view.olr_charts = training_charts.flips(view.stage2)
    if parts.rectified is None:
        view.notes.append("stage 2 has not written its corrected labels yet")
        return
    try:
        view.moved = moved = read_labels(parts.rectified, rank="changed_share")
    except DataError as error:
        view.notes.append(str(error))
        return
    view.olr_charts.append(label_charts.changed_histogram(moved))
    _add_position(view, "corrected labels", _pictures(parts.rectified, moved.sample[:300]))
    if view.sources is not None:
        view.moved_strips = view.sources.strips(
            [
                Wanted(row.key, f"{row.numbers['changed_share']:.1%} of it moved", row.shard)
                for row in moved.best
                if row.numbers["changed_share"] > 0
            ]
        )


def _left_out(parts: Parts) -> Iterator[tuple[str, logs.LeftOut]]:
    folders = [parts.data, parts.test_data, parts.labels, parts.test_labels, parts.stage1]
    folders += [parts.stage2, parts.preds, parts.maps, *parts.scores.values()]
    for folder in dict.fromkeys(folder for folder in folders if folder is not None):
        for part in logs.left_out(folder):
            yield folder.name, part


def _judged(view: RunView) -> list[str]:
    if lines := logs.judged(view.parts.folder):
        return lines
    rows = {row.name: row.scores for row in view.scores}
    if set(verdict.NAMES) <= set(rows):
        warned = [f"warning: {text}" for text in verdict.warnings(rows)]
        return [f"verdict: {verdict.verdict(rows)}", *warned]
    if view.parts.command == "run":
        return ["verdict: none yet, the run has not finished"]
    return []


def _truths(view: RunView, keys: Sequence[str]) -> PictureSet | None:
    parts = view.parts
    if parts.truth is None:
        return None
    try:
        return spread(find_truths(parts.truth, parts.mask_pattern), keys)
    except A2SError as error:
        view.notes.append(f"no truths: {error}")
        return None


def _pictures(folder: Path, rows: Sequence[Row]) -> Iterator[Any]:
    return (lambda row=row: decode_mask(row.picture(folder).read()) for row in rows)


def _add_position(view: RunView, title: str, reads: Iterator[Any]) -> None:
    unread = 0

    def maps() -> Iterator[Any]:
        nonlocal unread
        for read in reads:
            try:
                picture = read()
            except DataError:
                unread += 1
                continue
            if picture is not None:
                yield picture

    found = position(maps())
    if found is not None:
        view.positions.append((title, found))
    if unread:
        view.notes.append(f"{unread} sampled {title} cannot be read, their position is not shown")
