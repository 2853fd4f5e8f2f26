"""Rows and writers of the figures and of Table I: the runs that they need, and their files.

Figures show the first test set, or the training images without one. Figures 7 and 10 always show
the training images of stage 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from a2s.evaluation.pictures.snapshot import load
from a2s.paper import numbers
from a2s.paper.tables.format import csv_of, page
from a2s.paper.tables.results import notes_of, write_if_new
from a2s.paper.tables.rows import (
    Material,
    Row,
    common_jobs,
    label_job,
    predict_job,
    stage1_job,
    stage2_job,
)
from a2s.pipeline import Job

NUM_SNAPSHOT_IMAGES = 4


def tab1_rows(material: Material) -> list[Row]:
    """Pack the images; nothing is trained."""
    return [Row("before training", "", material.packing)]


def write_tab1(material: Material, rows: Sequence[Row]) -> str:
    """Write tab1.md and tab1.csv; return the first."""
    from a2s.paper.figures.activator import untrained
    from a2s.paper.figures.table1 import write

    spec = _untrained(material)
    found = write(
        material.out,
        data=material.needed_data(),
        made_from=spec,
        activator=lambda: untrained(**spec),
    )
    header = ["threshold", *(f"V, {scaling}" for scaling in found.variance), "paper", "ms per map"]
    lines = [
        [
            name,
            *(f"{values[name]:.4f}" for values in found.variance.values()),
            numbers.TABLE_1[name],
            f"{1e3 * found.time_per_image_sec[name]:.3f}",
        ]
        for name in found.time_per_image_sec
    ]
    notes = [
        f"Means over {found.num_images:,} images ({len(found.failed)} could not be read); encoder "
        f"{material.stage1['encoder'].name}, maps at stride {material.stage1['fusion_stride']}.",
        *notes_of(material, rows, (), "tab1"),
    ]
    title = "Table I: thresholds before training"
    text = page(title, [header, ["---"] * len(header), *lines], notes)
    write_if_new(material.out / "tab1.md", text)
    write_if_new(material.out / "tab1.csv", csv_of(header, lines))
    return text


def stage1_rows(material: Material) -> list[Row]:
    """Train the activation network."""
    stage1 = stage1_job(material, material.shared)
    return [Row("stage1", "activation network", (*material.packing, stage1))]


def write_fig1(material: Material, rows: Sequence[Row]) -> str:
    """Draw fig1.png."""
    from a2s.paper.figures.fig1_4_5 import fig1

    return str(fig1(material.out, model=material.shared / "stage1", **_shown(material)))


def fig4_rows(material: Material) -> list[Row]:
    """Train the activation network and label the images that the figure shows."""
    (row,) = stage1_rows(material)
    name, data = _shown_set(material)
    label = label_job(material, material.shared, name, data)
    return [Row(row.name, row.title, (*row.jobs, label))]


def write_fig4(material: Material, rows: Sequence[Row]) -> str:
    """Draw fig4.png."""
    from a2s.paper.figures.fig1_4_5 import fig4

    name, _ = _shown_set(material)
    shared = material.shared
    drawn = fig4(
        material.out,
        model=shared / "stage1",
        labels=shared / "labels" / name,
        methods=_given_maps(material, name),
        **_shown(material),
    )
    return str(drawn)


def write_fig5(material: Material, rows: Sequence[Row]) -> str:
    """Draw fig5.png."""
    from a2s.paper.figures.activator import untrained
    from a2s.paper.figures.fig1_4_5 import fig5

    _, data = _shown_set(material)
    return str(fig5(material.out, data=data, activator=untrained(**_untrained(material))))


def fig7_rows(material: Material) -> list[Row]:
    """Train stage 2 with and without label rectifying, with a snapshot after every epoch.

    Both have their own runs: a run that has passed an epoch no longer has the labels of it.
    """
    olr = material.stage2["lam"]
    titles = {"with OLR": olr if olr < 1 else 0.4, "without OLR": 1.0}
    rows = []
    for title, lam in titles.items():
        out = material.out / "rows" / f"epochs-lam-{lam:g}"
        jobs = (*common_jobs(material), *_snapshot_jobs(material, out, lam))
        run = out / "stage2"
        rows.append(Row(f"{lam:g}", title, jobs, {}, (("stage2", run),), (run,)))
    return rows


def _snapshot_jobs(material: Material, out: Path, lam: float) -> Iterator[Job]:
    for epoch in range(1, material.stage2["epochs"] + 1):
        training = stage2_job(material, out, lam=lam, until_epoch=epoch)
        folder = out / "snapshots" / f"{epoch:03d}"
        # A run that has passed this epoch cannot be snapshot at it any more.
        if load(folder) is None:
            yield training
            paths = {name: training.settings[name] for name in ("data", "labels")}
            wanted = {"epoch": epoch, "images": NUM_SNAPSHOT_IMAGES}
            yield Job("snapshot", {"model": out / "stage2", "out": folder, **paths, **wanted})


def write_fig7(material: Material, rows: Sequence[Row]) -> str:
    """Draw fig7.png."""
    from a2s.paper.figures.fig7_10 import fig7

    return str(fig7(material.out, runs=_snapshots(rows), **_training_images(material)))


def write_fig10(material: Material, rows: Sequence[Row]) -> str:
    """Draw fig10.png."""
    from a2s.paper.figures.fig7_10 import fig10

    labels = material.shared / "labels" / "train"
    runs = _snapshots(rows)
    return str(fig10(material.out, labels=labels, runs=runs, **_training_images(material)))


def _snapshots(rows: Sequence[Row]) -> dict[str, dict[int, Path]]:
    return {
        row.title: {
            int(folder.name): folder
            for folder in sorted((row.timed[0].parent / "snapshots").glob("[0-9]*"))
            if load(folder) is not None
        }
        for row in rows
    }


def fig8_rows(material: Material) -> list[Row]:
    """Predict the first test set with the networks of both stages."""
    scored, shared = material.tests[0], material.shared
    jobs = common_jobs(material)
    kinds = {"activation": shared / "stage1", "detector": shared / "stage2"}
    maps = {
        kind: predict_job(material, run, scored, shared / "maps" / f"{kind}-{scored.name}")
        for kind, run in kinds.items()
    }
    detector = (*jobs, stage2_job(material, shared), maps["detector"])
    return [
        Row("activation", "stage 1", (*jobs, maps["activation"])),
        Row("detector", "stage 2", detector),
    ]


def write_fig8(material: Material, rows: Sequence[Row]) -> str:
    """Draw fig8.png: the methods of --maps, then ours."""
    from a2s.paper.figures.fig8 import fig8

    name, maps = material.tests[0].name, material.shared / "maps"
    ours = {row.title: maps / f"{row.name}-{name}" for row in rows}
    done = {title: folder for title, folder in ours.items() if any(folder.glob("*.png"))}
    methods = _given_maps(material, name) | done
    return str(fig8(material.out, methods=methods, **_shown(material)))


def fig11_rows(material: Material) -> list[Row]:
    """Train the detector."""
    training = stage2_job(material, material.shared)
    return [Row("detector", "stage 2", (*common_jobs(material), training))]


def write_fig11(material: Material, rows: Sequence[Row]) -> str:
    """Draw fig11.png."""
    from a2s.paper.figures.fig11 import fig11

    return str(fig11(material.out, model=material.shared / "stage2", **_shown(material)))


def _shown_set(material: Material) -> tuple[str, Path]:
    """Name and shards of the set that figures show."""
    if material.tests:
        return material.tests[0].name, material.tests[0].data
    return "train", material.needed_data()


def _shown(material: Material) -> dict[str, Any]:
    name, data = _shown_set(material)
    truths = [scored.truth for scored in material.scored if scored.name == name]
    return {"data": data, "truth": truths[0] if truths else None}


def _training_images(material: Material) -> dict[str, Any]:
    truth = material.train.truth if material.train else None
    return {"data": material.needed_data(), "truth": truth}


def _given_maps(material: Material, name: str) -> dict[str, Path]:
    return {method: sets[name] for method, sets in material.maps.items() if name in sets}


def _untrained(material: Material) -> dict[str, Any]:
    """Arguments that build the network of stage 1 before training."""
    encoder = material.stage1["encoder"]
    network = {name: material.stage1[name] for name in ("seed", "fusion_stride", "image_size")}
    return {"encoder": encoder.name, "weights": encoder.weights, **network}
