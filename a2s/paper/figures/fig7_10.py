"""Figures 7 and 10: labels and predictions over the epochs of stage 2.

Both are drawn from the folders of `a2s snapshot`, given by run name and epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from a2s.errors import DataError
from a2s.evaluation.pairs import find_images, find_predictions, find_truths
from a2s.evaluation.pictures import snapshot
from a2s.evaluation.pictures.cells import Drawn, choose, file_cell, image_cell, map_cell, write_grid
from a2s.evaluation.pictures.grid import Cell

Snapshots = Mapping[str, Mapping[int, Path]]


def fig7(
    out: Path,
    *,
    data: Path,
    runs: Snapshots,
    truth: Path | None = None,
    keys: Sequence[str] | None = None,
) -> Drawn:
    """Draw a row of labels and a row of predictions per image and run, one column per epoch.

    The first column shows the image, and the truth below it. Default keys: those of the
    snapshots.

    Raises:
        DataError: no finished snapshot, or an unknown key.
    """
    images = find_images(data)
    truths = find_truths(truth) if truth is not None else None
    chosen = choose(images.keys, num_images=1, given=keys or _keys(runs))
    epochs = _epochs(runs)
    rows: list[list[Cell]] = []
    row_titles = []
    names = []
    for key in chosen:
        image = image_cell(images, key)
        first_column = [image, *([map_cell(truths, key, like=image)] if truths else [])]
        first_column += [Cell()] * (2 * len(runs))
        for name, folders in runs.items():
            for what, suffix in (("label", snapshot.LABEL), ("prediction", snapshot.PREDICTION)):
                cells = [_cell(folders.get(epoch), key, suffix) for epoch in epochs]
                row_titles.append(f"{name}: {what}")
                names.append(f"{key} {row_titles[-1]}")
                rows.append([first_column.pop(0), *cells])
    first = "image, truth" if truths else "image"
    return write_grid(
        out / "fig7.png",
        rows,
        titles=[first, *(f"epoch {epoch}" for epoch in epochs)],
        row_names=names,
        row_titles=row_titles,
        note="Labels and predictions as each epoch left them.",
    )


def fig10(
    out: Path,
    *,
    data: Path,
    labels: Path,
    runs: Snapshots,
    truth: Path | None = None,
    keys: Sequence[str] | None = None,
) -> Drawn:
    """Draw training images with their pseudo label and every run's prediction after each epoch.

    Raises:
        DataError: no finished snapshot, or an unknown key.
    """
    images = find_images(data)
    truths = find_truths(truth) if truth is not None else None
    chosen = choose(images.keys, num_images=1, given=keys or _keys(runs))
    pseudo = find_predictions(labels, wanted=frozenset(chosen))
    columns = {
        f"{name}, epoch {epoch}": folder
        for name, folders in runs.items()
        for epoch, folder in sorted(folders.items())
    }
    rows = []
    for key in chosen:
        image = image_cell(images, key)
        sides = [side for side in (truths, pseudo) if side is not None]
        known = [map_cell(side, key, like=image) for side in sides]
        predictions = [_cell(folder, key, snapshot.PREDICTION) for folder in columns.values()]
        rows.append([image, *known, *predictions])
    titles = ["image", *(["truth"] if truths else []), "pseudo label", *columns]
    return write_grid(out / "fig10.png", rows, titles=titles, row_names=chosen)


def _cell(folder: Path | None, key: str, suffix: str) -> Cell:
    return Cell() if folder is None else file_cell(folder, key, suffix=suffix)


def _epochs(runs: Snapshots) -> list[int]:
    return sorted({epoch for folders in runs.values() for epoch in folders})


def _keys(runs: Snapshots) -> list[str]:
    """Read the keys of the first finished snapshot."""
    folders = [folder for by_epoch in runs.values() for _, folder in sorted(by_epoch.items())]
    for folder in folders:
        known = snapshot.load(folder)
        if known is not None:
            return list(known.keys)
    raise DataError(f"figure: none of {len(folders)} folders holds a finished snapshot")
