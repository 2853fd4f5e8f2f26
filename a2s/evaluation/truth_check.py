"""Whether a folder of truths can be scored against, asked before hours of work."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from a2s.data import masks
from a2s.errors import DataError
from a2s.evaluation.pairs import find_truths, spread, unpaired

SAMPLE = 64
"""Masks that are decoded: enough to see that all are empty or full."""


def check_truths(
    folder: Path, mask_pattern: str | None, *, image_keys: Collection[str] | None
) -> None:
    """Find the masks, compare their names with those of the images if known, and look at some.

    Raises:
        ConfigError: the pattern is wrong.
        DataError: there are no masks, none belongs to an image, or they have no salient pixel or
            no other.
    """
    truths = find_truths(folder, mask_pattern)
    wanted = sorted(truths.keys)
    if image_keys is not None:
        truths = spread(truths, image_keys)
        wanted = sorted(truths.keys.intersection(image_keys))
        if not wanted:
            which = unpaired(image_keys, truths, folder=folder)
            raise DataError(f"no image has the name of {which}")
    places = np.linspace(0, len(wanted) - 1, min(SAMPLE, len(wanted))).round().astype(int)
    num_masks = num_empty = num_full = 0
    for place in np.unique(places):
        try:
            is_object_HW = truths.picture(wanted[place]) >= 128
        except DataError:
            # `a2s evaluate` lists it.
            continue
        num_masks += 1
        num_empty += not is_object_HW.any()
        num_full += bool(is_object_HW.all())
    if why := masks.useless(num_masks=num_masks, num_empty=num_empty, num_full=num_full):
        raise DataError(f"{folder}: {why}")
