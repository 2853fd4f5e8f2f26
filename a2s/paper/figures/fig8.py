"""Figure 8: images, truth, and the maps of several methods side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from a2s.evaluation.pairs import PictureSet, find_images, find_predictions, find_truths
from a2s.evaluation.pictures.cells import (
    NUM_IMAGES,
    Drawn,
    choose,
    image_cell,
    map_cell,
    write_grid,
)


def fig8(
    out: Path,
    *,
    data: Path,
    methods: Mapping[str, Path],
    truth: Path | None = None,
    keys: Sequence[str] | None = None,
    num_images: int = NUM_IMAGES,
) -> Drawn:
    """Draw image, truth, and one column per folder of maps (or label shards) as one PNG."""
    images = find_images(data)
    chosen = choose(images.keys, num_images=num_images, given=keys)
    columns = columns_of(chosen, truth=truth, methods=methods)
    rows = []
    for key in chosen:
        image = image_cell(images, key)
        rows.append([image, *(map_cell(side, key, like=image) for side in columns.values())])
    return write_grid(out / "fig8.png", rows, titles=["image", *columns], row_names=chosen)


def columns_of(
    keys: Sequence[str],
    *,
    truth: Path | None = None,
    methods: Mapping[str, Path] | None = None,
) -> dict[str, PictureSet]:
    """Find the pictures of every column, by title: truth first, then the methods in order.

    Raises:
        DataError: a folder is missing or holds no map.
    """
    columns = {} if truth is None else {"truth": find_truths(truth)}
    wanted = frozenset(keys)
    named = (methods or {}).items()
    return columns | {name: find_predictions(folder, wanted=wanted) for name, folder in named}
