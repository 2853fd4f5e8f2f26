"""Rows of a table as jobs: packing, training, labelling, prediction and scoring.

OUT/shared holds the runs with unchanged settings, OUT/rows/STAGE-SETTING-VALUE the runs with a
row's changes. Two tables in one OUT therefore share every run that both need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a2s.errors import ConfigError
from a2s.pipeline import Job, chosen, stage2_jobs

Changes = Mapping[str, Any]
"""Settings by name; a mapping holds those of a nested group."""


@dataclass(frozen=True)
class Scored:
    """A set with ground truth: data shards, and a folder of masks or of shards with masks."""

    name: str
    data: Path
    truth: Path


@dataclass(frozen=True)
class Material:
    """Inputs shared by all rows.

    `stage1`, `label` and `stage2` hold every setting of the command except its folders.
    """

    out: Path
    data: Path | None
    packing: tuple[Job, ...]
    train: Scored | None
    tests: tuple[Scored, ...]
    stage1: dict[str, Any]
    label: dict[str, Any]
    stage2: dict[str, Any]
    pooled: dict[str, Any]
    maps: Mapping[str, Mapping[str, Path]]
    """Folder of given maps, by method and test set."""
    runs: tuple[Path, ...]

    @property
    def shared(self) -> Path:
        """Folder of runs and files that several rows use."""
        return self.out / "shared"

    @property
    def scored(self) -> tuple[Scored, ...]:
        """The training set, if its masks are known, and all test sets."""
        return (*([self.train] if self.train else []), *self.tests)

    def needed_data(self) -> Path:
        """Return the training shards.

        Raises:
            ConfigError: --data is missing.
        """
        if self.data is None:
            raise ConfigError("ablate: give --data, a folder of images or shards to learn from")
        return self.data


@dataclass(frozen=True)
class Row:
    """A row of a table: its jobs in order, its scores and its runs.

    `scores` are folders by set. `trained` are run folders by stage; the table's notes compare their
    settings with the paper's. `timed` are the folders whose hours add up to the row's. `paper` is
    the row's key in the paper's table. `always`: run it also where --rows names other rows.
    """

    name: str
    title: str
    jobs: tuple[Job, ...] = ()
    scores: Mapping[str, Path] = field(default_factory=dict)
    trained: tuple[tuple[str, Path], ...] = ()
    timed: tuple[Path, ...] = ()
    paper: str = ""
    x: float | None = None
    always: bool = False


def merged(rows: Sequence[Row]) -> list[Job]:
    """Return the jobs of all rows; a job that several rows share comes once."""
    jobs: list[Job] = []
    for row in rows:
        # A row may repeat a job on purpose: the second pass continues the first.
        jobs += [job for job in row.jobs if job not in jobs]
    return jobs


def effective_changes(section: Changes, changes: Changes) -> dict[str, Any]:
    """Return the changes that differ from the section's own values."""
    effective: dict[str, Any] = {}
    for name, value in changes.items():
        if isinstance(value, Mapping):
            if inner := effective_changes(chosen(section[name]), value):
                effective[name] = inner
        elif name not in section or section[name] != value:
            effective[name] = value
    return effective


def with_changes(section: Changes, changes: Changes) -> dict[str, Any]:
    """Apply the changes to a section of settings."""
    return {
        **section,
        **{
            name: section[name].model_copy(update=value) if isinstance(value, Mapping) else value
            for name, value in changes.items()
        },
    }


def run_folder(material: Material, stage: str, changes: Changes) -> Path:
    """Folder of the run with these changes: named after them, or the shared one without any."""
    if not changes:
        return material.shared
    parts = [f"{name}-{_text(value)}" for name, value in sorted(_flat(changes))]
    return material.out / "rows" / "-".join([stage, *parts])


def _flat(changes: Changes) -> Iterator[tuple[str, Any]]:
    for name, value in changes.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, value


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower()


def stage1_job(material: Material, out: Path, **changes: Any) -> Job:
    """Train the activation network in `out`/stage1."""
    paths = {"data": material.needed_data(), "out": out / "stage1"}
    return Job("stage1", {**paths, **with_changes(material.stage1, changes)})


def label_job(material: Material, out: Path, name: str, data: Path) -> Job:
    """Label a set with the network of `out`/stage1."""
    paths = {"model": out / "stage1", "data": data, "out": out / "labels" / name}
    return Job("label", {**paths, **material.label, **material.pooled})


def stage2_job(material: Material, out: Path, **changes: Any) -> Job:
    """Train the detector in `out`/stage2 on the shared labels."""
    labels = {"labels": material.shared / "labels" / "train"}
    paths = {"data": material.needed_data(), **labels, "out": out / "stage2"}
    limit = {"max_failure_rate": material.pooled["max_failure_rate"]}
    return Job("stage2", {**paths, **with_changes(material.stage2, changes), **limit})


def predict_job(material: Material, model: Path | str, scored: Scored, out: Path) -> Job:
    """Predict a model's maps for a set."""
    images = {"images": (str(scored.data),)}
    return Job("predict", {**images, "model": model, "out": out, **material.pooled})


def evaluate_job(material: Material, pred: Path, scored: Scored, out: Path) -> Job:
    """Score maps or labels against a set's masks."""
    pair = {"pred": pred, "truth": scored.truth, "out": out}
    return Job("evaluate", {**pair, **material.pooled})


def common_jobs(material: Material) -> list[Job]:
    """Return the jobs before stage 2 that all rows share: packing, stage 1, its labels."""
    shared, data = material.shared, material.needed_data()
    label = label_job(material, shared, "train", data)
    return [*material.packing, stage1_job(material, shared), label]


def labels_row(material: Material, name: str, title: str, changes: Changes, **more: Any) -> Row:
    """Build a row about stage 1: score the pseudo labels of every set with masks."""
    changes = effective_changes(material.stage1, changes)
    out = run_folder(material, "stage1", changes)
    jobs = [*material.packing, stage1_job(material, out, **changes)]
    scores = {}
    for scored in material.scored:
        label = label_job(material, out, scored.name, scored.data)
        scores[scored.name] = out / "scores" / f"labels-{scored.name}"
        jobs += [label, evaluate_job(material, label.out, scored, scores[scored.name])]
    run = out / "stage1"
    return Row(name, title, tuple(jobs), scores, (("stage1", run),), (run,), **more)


def detector_row(
    material: Material,
    name: str,
    title: str,
    changes: Changes,
    **more: Any,
) -> Row:
    """Build a row about stage 2: score the detector's maps of every test set."""
    changes = effective_changes(material.stage2, changes)
    out = run_folder(material, "stage2", changes)
    run = out / "stage2"
    training = stage2_job(material, out, **changes)
    jobs = common_jobs(material) + stage2_jobs(training, workers=material.pooled["workers"])
    scoring, scores = scored_maps(material, run, out, "detector", material.tests)
    trained = (("stage1", material.shared / "stage1"), ("stage2", run))
    return Row(name, title, (*jobs, *scoring), scores, trained, (run,), **more)


def scored_maps(
    material: Material, model: Path | str, out: Path, kind: str, sets: Sequence[Scored]
) -> tuple[list[Job], dict[str, Path]]:
    """Predict and score a model's maps of some sets; return the jobs, and score folders by set."""
    jobs, scores = [], {}
    for scored in sets:
        pred = out / "maps" / f"{kind}-{scored.name}"
        scores[scored.name] = out / "scores" / f"{kind}-{scored.name}"
        jobs += [
            predict_job(material, model, scored, pred),
            evaluate_job(material, pred, scored, scores[scored.name]),
        ]
    return jobs, scores


def rbd_row(material: Material, sets: Sequence[Scored]) -> Row:
    """Build the row of RBD, the baseline without training: `predict --model rbd`."""
    jobs, scores = scored_maps(material, "rbd", material.shared, "RBD", sets)
    jobs = [*material.packing, *jobs]
    return Row("RBD", "training-free", tuple(jobs), scores, paper="RBD", always=True)
