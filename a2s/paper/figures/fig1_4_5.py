"""Figures 1, 4 and 5: activation maps and cues, several methods, thresholds.

Images are data shards or a folder of photographs. Every figure is one PNG. It shows the images of
the given keys, or images spread evenly over all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from a2s.evaluation.pairs import find_images, find_truths
from a2s.evaluation.pictures.cells import (
    NUM_IMAGES,
    Drawn,
    Size,
    choose,
    coloured,
    image_cell,
    map_cell,
    normalised,
    resized,
    write_grid,
)
from a2s.evaluation.pictures.grid import RGB, Cell
from a2s.paper.figures.activator import Activator, trained
from a2s.paper.figures.fig8 import columns_of
from a2s.paper.figures.thresholds import STRATEGIES, inter_class_variance

GREEN: RGB = (40, 150, 70)
RED: RGB = (205, 45, 45)
_NO_IMAGE = Cell(None, "no image")
_CANDIDATES_PER_IMAGE = 4
"""Candidates searched for inverted maps, per image shown."""


def fig1(
    out: Path,
    *,
    data: Path,
    model: Path,
    truth: Path | None = None,
    keys: Sequence[str] | None = None,
    num_images: int = NUM_IMAGES,
) -> Drawn:
    """Draw activation maps and their cues; inverted maps are framed in red.

    Columns: image, activation map M, theta >= 0, the cue after the sign of Eqn 5, optionally truth.
    Without `keys`, up to half of the images have an inverted map, if the search finds enough.
    """
    images, activator = find_images(data), trained(model)
    truths = find_truths(truth) if truth is not None else None
    found = ""
    if keys is None:
        candidates = choose(images.keys, num_images=_CANDIDATES_PER_IMAGE * num_images)
        inverted = [key for key in candidates if _is_inverted(image_cell(images, key), activator)]
        found = f" {len(inverted)} of {len(candidates)} images looked at are inverted."
        keys = choose_some_inverted(candidates, inverted, num_images=num_images)
    chosen = choose(images.keys, num_images=num_images, given=keys)
    titles = ["image", "activation map M", "θ ≥ 0", "cue: σ(sign · θ)"]
    rows = []
    for key in chosen:
        image = image_cell(images, key)
        cells = [image, _NO_IMAGE, _NO_IMAGE, _NO_IMAGE]
        if image.picture is not None:
            theta_hw, size = activator(image.picture), _size(image)
            cue = activator.cue(theta_hw, height=size[0], width=size[1])
            upright = cue.sign > 0
            above_HW = (resized(theta_hw, size) >= 0) * np.uint8(255)
            caption = ("sign +1", GREEN) if upright else ("sign −1: inverted", RED)
            cells = [
                image,
                Cell(coloured(theta_hw, size)),
                Cell(above_HW, *caption),
                Cell(cue.picture_HW),
            ]
        rows.append(cells + ([map_cell(truths, key, like=image)] if truths else []))
    titles += ["truth"] * bool(truths)
    note = "Green: foreground is where θ ≥ 0. Red: it is the smaller side, so the map is inverted."
    return write_grid(out / "fig1.png", rows, titles=titles, row_names=chosen, note=note + found)


def fig4(
    out: Path,
    *,
    data: Path,
    model: Path,
    labels: Path | None = None,
    truth: Path | None = None,
    methods: Mapping[str, Path] | None = None,
    keys: Sequence[str] | None = None,
    num_images: int = NUM_IMAGES,
) -> Drawn:
    """Draw cues of several methods side by side.

    Columns: image, truth, activation map, our cue, pseudo label, then every folder of maps.
    """
    images, activator = find_images(data), trained(model)
    chosen = choose(images.keys, num_images=num_images, given=keys)
    before = columns_of(chosen, truth=truth)
    after = columns_of(
        chosen, methods={**({"pseudo label": labels} if labels else {}), **(methods or {})}
    )
    rows = []
    for key in chosen:
        image = image_cell(images, key)
        ours = [_NO_IMAGE, _NO_IMAGE]
        if image.picture is not None:
            theta_hw, size = activator(image.picture), _size(image)
            cue = activator.cue(theta_hw, height=size[0], width=size[1])
            ours = [Cell(coloured(theta_hw, size)), Cell(cue.picture_HW)]
        sides = [map_cell(side, key, like=image) for side in before.values()]
        rest = [map_cell(side, key, like=image) for side in after.values()]
        rows.append([image, *sides, *ours, *rest])
    titles = ["image", *before, "activation map M", "cue (stage 1)", *after]
    return write_grid(out / "fig4.png", rows, titles=titles, row_names=chosen)


def fig5(
    out: Path,
    *,
    data: Path,
    activator: Activator,
    keys: Sequence[str] | None = None,
    num_images: int = NUM_IMAGES,
) -> Drawn:
    """Draw activation maps before training, cut by the thresholds of Table I.

    Columns: image, activation map M, then one mask per threshold (white: M >= threshold) with its
    inter-class variance V (Eqn 2) on the map stretched to 0..1.
    """
    images = find_images(data)
    chosen = choose(images.keys, num_images=num_images, given=keys)
    rows = []
    for key in chosen:
        image = image_cell(images, key)
        rows.append([image, *_thresholded(image, activator)])
    titles = ["image", "M before training", *(f"{name}: M ≥ t" for name in STRATEGIES)]
    return write_grid(out / "fig5.png", rows, titles=titles, row_names=chosen)


def _is_inverted(image: Cell, activator: Activator) -> bool:
    if image.picture is None:
        return False
    height, width = _size(image)
    return activator.cue(activator(image.picture), height=height, width=width).sign < 0


def choose_some_inverted(
    candidates: Sequence[str], inverted: Sequence[str], *, num_images: int
) -> list[str]:
    """Choose keys of which up to half are inverted, each kind spread evenly."""
    upright = sorted(set(candidates) - set(inverted))
    num_inverted = min(len(inverted), max(num_images // 2, num_images - len(upright)))
    mixed: list[str] = []
    for keys, count in ((inverted, num_inverted), (upright, num_images - num_inverted)):
        mixed += choose(keys, num_images=count) if count else []
    return sorted(mixed)


def _thresholded(image: Cell, activator: Activator) -> list[Cell]:
    if image.picture is None:
        return [_NO_IMAGE] * (1 + len(STRATEGIES))
    theta_hw, size = activator(image.picture), _size(image)
    unit_hw = normalised(theta_hw)
    cells = [Cell(coloured(theta_hw, size))]
    for strategy in STRATEGIES.values():
        threshold = strategy(unit_hw)
        above_HW = (resized(unit_hw, size) >= threshold) * np.uint8(255)
        variance = inter_class_variance(unit_hw, threshold)
        cells.append(Cell(above_HW, f"V = {variance:.4f}"))
    return cells


def _size(image: Cell) -> Size:
    assert image.picture is not None
    return image.picture.shape[0], image.picture.shape[1]
