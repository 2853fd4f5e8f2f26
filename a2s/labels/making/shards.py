"""Label shards: write them from finished chunks, and sum up their manifests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from a2s.data.index import Index
from a2s.data.origin import IMAGE_CRC32
from a2s.data.shards import ShardWriter, shard_done
from a2s.errors import DataError
from a2s.labels.making.chunk import Labelled
from a2s.storage.failures import BAD_CHECKSUM, Failure
from a2s.storage.status import quality

COLUMNS = {
    "width": "int32",
    "height": "int32",
    "quality": "float",
    "no_object": "bool",
    "area_share": "float",
    "border_contact": "float",
    "decision_margin": "float",
    "sign_margin": "float",
    "crf_agreement": "float",
    "num_components": "int32",
    "map_overlap": "float",
    "map_inside": "float",
    "map_peak": "float",
    "colour_contrast": "float",
    "inverted": "bool",
    IMAGE_CRC32: "uint32",
}


def write_shard(
    out: Path,
    index: Index,
    number: int,
    in_order: list[Labelled],
    *,
    settings: str,
    min_quality: float = 0.0,
) -> None:
    """Write one label shard from its chunks, in the order of the data shard.

    Labels of less quality than `min_quality` are left out, and listed in the manifest.
    """
    shard = index.shards[number]
    num_shards = len(index.shards)
    with ShardWriter(
        out,
        shard.name,
        columns=COLUMNS,
        settings=settings,
        num_shards=num_shards,
    ) as writer:
        made = [(key, label) for part in in_order for key, label in part.labels.items()]
        kept = [(key, label) for key, label in made if label.quality.quality >= min_quality]
        rows = index.shard_rows(number)
        row_of = dict(zip(index.keys_for(rows), rows, strict=True))
        for key, label in kept:
            values: dict[str, object] = dataclasses.asdict(label.quality)
            values |= {"width": label.width, "height": label.height}
            values[IMAGE_CRC32] = int(index.crc32_N[row_of[key]])
            writer.add(key, {"png": label.png}, **values)
        writer.extra["data_sha256"] = shard.sha256
        writer.extra["num_images"] = shard.count
        writer.extra["num_images_total"] = len(index)
        writer.extra["num_empty"] = sum(label.quality.area_share == 0 for _, label in kept)
        writer.extra["num_no_object"] = sum(label.quality.no_object for _, label in kept)
        writer.extra["quality_counts"] = quality.count(label.quality.quality for _, label in kept)
        writer.extra["left_out"] = [
            {"key": key, "quality": round(label.quality.quality, 4)}
            for key, label in made
            if label.quality.quality < min_quality
        ]
        writer.extra["failures"] = [failure for part in in_order for failure in part.failures]


def is_done(out: Path, index: Index, number: int, *, settings: str) -> bool:
    """Whether a label shard is finished, and no image that it lists can be read again by now.

    A data shard may have been repaired after its labels were made.
    """
    manifest = shard_done(out, index.shards[number].name, settings=settings)
    if manifest is None:
        return False
    keys = [one["key"] for one in manifest["failures"] if one["reason"] == BAD_CHECKSUM]
    return not any(row >= 0 and _is_readable(index, int(row)) for row in index.rows_of(keys))


def _is_readable(index: Index, row: int) -> bool:
    try:
        index.read(row)
    except DataError:
        return False
    return True


@dataclass
class Summary:
    """Totals of a folder of label shards."""

    num_labels: int = 0
    num_images: int = 0
    num_empty: int = 0
    num_no_object: int = 0
    quality_counts: list[int] = field(default_factory=lambda: quality.count(()))
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Keys and quality of labels that were not good enough."""
    failures: list[Failure] = field(default_factory=list)
    num_missing: int = 0
    """Shards that are not finished."""


def summarise(out: Path, index: Index, *, settings: str) -> Summary:
    """Sum up the manifests of the shards that an index has."""
    stock = Summary()
    for shard in index.shards:
        manifest = shard_done(out, shard.name, settings=settings)
        if manifest is None:
            stock.num_missing += 1
            continue
        stock.num_labels += manifest["count"]
        stock.num_images += manifest["num_images"]
        stock.num_empty += manifest["num_empty"]
        stock.num_no_object += manifest["num_no_object"]
        stock.quality_counts = quality.add((stock.quality_counts, manifest["quality_counts"]))
        stock.left_out += manifest["left_out"]
        stock.failures += manifest["failures"]
    return stock
