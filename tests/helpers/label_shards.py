"""Label shards for the tests of stage 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from a2s.data.images import encode_png
from a2s.data.index import Index
from a2s.data.shards import ShardWriter
from a2s.storage.hashing import key_hash

MISSING, UNREADABLE, EMPTY, FULL = "no label", "unreadable", "empty", "full"


def write_labels(data: Path, out: Path, *, odd: dict[int, str] | None = None) -> Path:
    """Write a rectangle per image as label; `odd` selects rows with another one."""
    index, odd = Index.load(data), odd or {}
    out.mkdir()
    for number, shard in enumerate(index.shards):
        with ShardWriter(out, shard.name, settings="test", num_shards=len(index.shards)) as writer:
            for row in index.shard_rows(number):
                if odd.get(row) == MISSING:
                    continue
                mask_HW = rectangle(
                    index.key(row), int(index.height_N[row]), int(index.width_N[row])
                )
                if (kind := odd.get(row)) in (EMPTY, FULL):
                    mask_HW[:] = 255 if kind == FULL else 0
                png = encode_png(mask_HW)
                data_ = png[: len(png) // 2] if odd.get(row) == UNREADABLE else png
                writer.add(index.key(row), {"png": data_})
    return out


def rectangle(key: str, height: int, width: int) -> np.ndarray:
    top, left = (np.asarray([key_hash(key) % 7, key_hash(key) % 5]) / 12 * (height, width)).astype(
        int
    )
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[top : top + height // 2, left : left + width // 2] = 255
    return mask_HW
