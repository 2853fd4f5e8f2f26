"""Small folders of data and labels that are hard to export, and the command on them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from processes import Finished, call

from a2s.data.images import encode_png
from a2s.data.keys import encode_key
from a2s.data.shards import ShardWriter
from a2s.labels.shapes import brush
from a2s.labels.shapes.regions import regions
from a2s.labels.shapes.run_lengths import row_counts

ROTATED = "turned/by exif"


def drawn_masks() -> dict[str, np.ndarray]:
    """Masks by the path of their image. Shape: H W, bool."""
    ring = np.zeros((23, 31), bool)
    ring[3:17, 4:20] = True
    ring[6:10, 7:12] = False
    ring[7:9, 8:10] = True  # an island in the hole
    ring[20:22, 25:30] = True
    pixel = np.zeros((9, 7), bool)
    pixel[4, 3] = True
    corners = np.zeros((5, 6), bool)
    corners[:2, :2] = corners[2:4, 2:4] = corners[4, 5] = True  # touch at corners and the border
    stripes = np.zeros((8, 9), bool)
    stripes[:, ::2] = True
    turned = np.zeros((12, 20), bool)
    turned[2:7, 3:15] = True
    return {
        "a/ring": ring,
        "a/b/pixel": pixel,
        "empty": np.zeros((6, 5), bool),
        "full": np.ones((4, 11), bool),
        "images/corners": corners,
        "CON": stripes,
        "odd:name\x1b?.v2 ": stripes.T.copy(),
        "Łódź 100%25": pixel.T.copy(),
        ROTATED: turned,
    }


@dataclass(frozen=True)
class Folders:
    """Data and label shards, and the masks by key."""

    data: Path
    labels: Path
    masks: dict[str, np.ndarray]
    quality: dict[str, float]


def write_folders(
    root: Path, masks: dict[str, np.ndarray] | None = None, *, shard_size: int = 4
) -> Folders:
    """Pack noise as images and masks as labels; every second image is a PNG."""
    named = drawn_masks() if masks is None else masks
    by_key = {encode_key(path): mask_HW for path, mask_HW in sorted(named.items())}
    keys = list(by_key)
    quality = {key: round(0.1 + 0.8 * n / len(keys), 2) for n, key in enumerate(keys)}
    data, labels = root / "data", root / "labels"
    size = {"width": "int32", "height": "int32"}
    kinds = {**size, "orientation": "int8"}, {**size, "quality": "float", "no_object": "bool"}
    for folder in (data, labels):
        folder.mkdir(parents=True)
    parts = [keys[first : first + shard_size] for first in range(0, len(keys), shard_size)]
    for number, part in enumerate(parts):
        name, common = f"shard-{number:06d}", {"settings": "test", "num_shards": len(parts)}
        with (
            ShardWriter(data, name, columns=kinds[0], **common) as images,
            ShardWriter(labels, name, columns=kinds[1], **common) as made,
        ):
            for key in part:
                mask_HW = by_key[key]
                sides = {"width": mask_HW.shape[1], "height": mask_HW.shape[0]}
                orientation = 6 if key == encode_key(ROTATED) else 1
                kind = "PNG" if keys.index(key) % 2 and orientation == 1 else "JPEG"
                image = photograph(mask_HW, kind, orientation)
                extension = {"PNG": "png", "JPEG": "jpg"}[kind]
                images.add(key, {extension: image}, **sides, orientation=orientation)
                png = encode_png(mask_HW.astype(np.uint8) * np.uint8(255))
                found = {"quality": quality[key], "no_object": not mask_HW.any()}
                made.add(key, {"png": png}, **sides, **found)
    return Folders(data, labels, by_key, quality)


def photograph(mask_HW: np.ndarray, kind: str, orientation: int) -> bytes:
    """Noise as a file; orientation 6 stores it turned by 90 degrees."""
    noise = np.random.default_rng(0).integers(0, 256, (*mask_HW.shape, 3)).astype(np.uint8)
    image, buffer, exif = Image.fromarray(noise), io.BytesIO(), Image.Exif()
    if orientation == 6:
        image, exif[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    image.save(buffer, kind, exif=exif)
    return buffer.getvalue()


def arguments(folders: Folders, out: Path, form: str, *, workers: int = 0) -> list[str]:
    """Words of `a2s export`."""
    words = ["export", folders.labels, "--data", folders.data, "--out", out, "--format", form]
    return [*map(str, words), "--workers", str(workers)]


def export(folders: Folders, out: Path, form: str, *flags: object) -> Finished:
    """`a2s export`, in this process."""
    return call(*arguments(folders, out, form), *flags)


def written(out: Path) -> dict[str, bytes]:
    """Every file of an export but the records of the job, by its path."""
    records = {".lock", "config.yaml", "environment.json", "metrics.jsonl", "stopped.json"}
    records |= {"written.txt"}  # it holds times
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in records
    }


def brush_stroke(mask_HW: np.ndarray) -> list[int]:
    """The stream of a mask that may be empty."""
    counts = [row_counts(one) for one in regions(mask_HW, instances=False)]
    return brush.encode(counts[0] if counts else [mask_HW.size])
