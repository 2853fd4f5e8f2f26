"""Data and label shards to review, made without networks."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from a2s.data.images import encode_png
from a2s.data.keys import encode_key
from a2s.data.shards import ShardWriter, read_manifest, sealed

HOSTILE = "<img src=x onerror=document.title='owned'>&\"'"
COLUMNS = {
    **{"width": "int32", "height": "int32", "quality": "float", "no_object": "bool"},
    **{"area_share": "float", "border_contact": "float", "inverted": "bool"},
}
DATA_COLUMNS = {"width": "int32", "height": "int32", "orientation": "int32"}


def scene(number: int, *, width: int, height: int) -> tuple[bytes, bytes]:
    """A red disc on blue as JPEG, and a label that covers its left half as PNG."""
    y, x = np.mgrid[:height, :width]
    centre = width // 2 + number % 7 - 3
    disc = (x - centre) ** 2 + (y - height // 2) ** 2 < (height // 3) ** 2
    noise = np.random.default_rng(number).integers(0, 20, (height, width, 3))
    pixels = np.where(disc[..., None], (200, 40, 30), (30, 60, 180)) + noise
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=92)
    label = np.where(disc & (x < centre), np.uint8(255), np.uint8(0))
    return buffer.getvalue(), encode_png(label)


def write_pair(
    root: Path, *, count: int = 12, width: int = 120, height: int = 96, names: tuple[str, ...] = ()
) -> tuple[Path, Path]:
    """Folders of labels and data; the label of number n has quality n / count."""
    labels, data = root / "labels", root / "data"
    per_shard = -(-count // 2)
    for folder in (labels, data):
        folder.mkdir(parents=True)
    for shard in range(2):
        numbers = range(shard * per_shard, min(count, (shard + 1) * per_shard))
        name = f"shard-{shard:06d}"
        made = [
            (
                encode_key(names[n] if n < len(names) else f"dir/scene {n:03d}"),
                *scene(n, width=width, height=height),
            )
            for n in numbers
        ]
        with ShardWriter(data, name, columns=DATA_COLUMNS, settings="d", num_shards=2) as writer:
            for key, jpeg, _ in made:
                writer.add(key, {"jpg": jpeg}, width=width, height=height, orientation=1)
        with ShardWriter(labels, name, columns=COLUMNS, settings="l", num_shards=2) as writer:
            writer.extra["data_sha256"] = read_manifest(data / f"{name}.json")["tar_sha256"]
            for n, (key, _, png) in zip(numbers, made, strict=True):
                row = {"quality": n / count, "no_object": n == 5, "area_share": 0.2}
                row |= {"border_contact": 0.0, "inverted": False}
                writer.add(key, {"png": png}, width=width, height=height, **row)
    return labels, data


def repeat(folder: Path, count: int) -> None:
    """Give a folder many rows with other keys that lead to the same bytes."""
    for number, path in enumerate(sorted(folder.glob("*.parquet"))):
        table = pq.read_table(path)
        copies = count // 2 // len(table) + 1
        large = pa.concat_tables([table] * copies).slice(0, count // 2)
        keys = [f"{key}-{number}-{at}" for at, key in enumerate(large["key"].to_pylist())]
        at = large.schema.get_field_index("key")
        pq.write_table(large.set_column(at, "key", pa.array(keys)), path)
        manifest = json.loads(path.with_suffix(".json").read_text())
        manifest["count"] = len(large)
        manifest["parquet_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_suffix(".json").write_text(json.dumps(sealed(manifest)))
