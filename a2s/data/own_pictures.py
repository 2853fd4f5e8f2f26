"""What a2s wrote among images: pictures of `a2s predict` beside them, and folders of results."""

from __future__ import annotations

import os
from pathlib import Path

from a2s.data.images import FORMATS, BadImage, decoding
from a2s.storage import files

SOFTWARE = "a2s"
SOFTWARE_TAG = 0x0131
"""EXIF tag of the software; a PNG has a text chunk instead."""
WORDS = ("mask", "cutout", "overlay")
"""What stands before the suffix of a picture beside its image, such as `photo.mask.png`."""


def is_ours(path: Path) -> bool:
    """Whether a file is a picture that a2s has marked as its own."""
    from PIL import Image

    try:
        with (
            files.open_file(path) as file,
            decoding(),
            Image.open(file, formats=FORMATS) as image,
        ):
            return SOFTWARE in (image.info.get("Software"), image.getexif().get(SOFTWARE_TAG))
    except (OSError, BadImage):
        return False


def is_result(path: Path) -> bool:
    """Whether a file is what an earlier `a2s predict` wrote beside an image, by name and mark."""
    return path.stem.endswith(tuple(f".{word}" for word in WORDS)) and is_ours(path)


def is_in_results(folder: str, root: str, known: dict[str, bool]) -> bool:
    """Whether a command of a2s writes to a folder below `root`, or to one between the two.

    `known` keeps the answers. Images that an earlier run wrote there are not photographs.
    """
    if folder == root:
        return False
    if folder not in known:
        records = [os.path.join(folder, name) for name in ("config.yaml", "environment.json")]
        above = is_in_results(os.path.dirname(folder), root, known)
        known[folder] = above or all(map(os.path.exists, records))
    return known[folder]
