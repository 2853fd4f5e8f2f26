"""Photographs of noise, and runs of `a2s shard` on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from a2s.commands.shard import run
from a2s.config.commands import ShardConfig

# What a run records about itself differs between two runs; what it makes must not.
RECORDS = {"config.yaml", "environment.json", "metrics.jsonl", "stopped.json", ".lock"}


def photo(number: int, *, side: int = 24) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (side, side + 6, 3), dtype=np.uint8)


def fill(folder: Path, count: int, *, side: int = 24) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(photo(number, side=side)).save(folder / f"{number:03d}.jpg")
    return folder


def shard(source: object, out: Path, **settings: object) -> int:
    values = {"workers": 0, "shard_size": 4, **settings}
    return run(ShardConfig(images=(str(source),), out=out, **values))


def made(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in RECORDS
    }
