"""Small photographs for tests, and what `a2s predict` leaves beside results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RECORDS = {
    *(".lock", "config.yaml", "environment.json", "metrics.jsonl", "failures.jsonl"),
    *("written.txt", "resolved.json"),
}


def photograph(height: int = 48, width: int = 64, *, seed: int = 0) -> Image.Image:
    """An orange object on a dark, noisy background; RBD finds it."""
    pixels = np.random.default_rng(seed).integers(0, 40, (height, width, 3), dtype=np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = (220, 160, 40)
    return Image.fromarray(pixels)


def pixels_of(path: Path) -> Any:
    """Pixels of an image file, as they are stored."""
    with Image.open(path) as image:
        return np.array(image)


def results(folder: Path) -> set[str]:
    """Files of a folder but those that every job writes."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - RECORDS
