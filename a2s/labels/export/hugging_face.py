"""A data set for Hugging Face: Parquet files with images and masks, and a card.

https://huggingface.co/docs/hub/datasets-image
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from a2s.labels.export.item import Document, Encoded, Item, Lines, Style, mask_png

_KINDS = {
    "key": "string",
    "width": "int32",
    "height": "int32",
    "quality": "float32",
    "no_object": "bool",
    "review": "string",
}
_PICTURES = ("image", "mask")
_GROUP_BYTES = 32 * 2**20
"""Bytes of pictures in a row group: what a writer and a reader hold in memory."""
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def _schema() -> pa.Schema:
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    aliases = {"float32": "float"}
    fields = [(name, picture) for name in _PICTURES]
    fields += [(name, pa.type_for_alias(aliases.get(kind, kind))) for name, kind in _KINDS.items()]
    features: dict[str, Any] = {name: {"_type": "Image"} for name in _PICTURES}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in _KINDS.items()}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def file_of(number: int, total: int) -> str:
    """Path of a Parquet file below the output folder, as the hub expects it."""
    return f"data/train-{number:05d}-of-{total:05d}.parquet"


class Table:
    """Context manager that writes one Parquet file, a row group at a time."""

    def __init__(self, path: Path, style: Style) -> None:
        self._writer = pq.ParquetWriter(path, _schema(), compression="zstd")
        self._style = style
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def __enter__(self) -> Table:
        return self

    def add(self, item: Item, image: bytes) -> None:
        """Append a label and the bytes of its image."""
        mask = mask_png(item, self._style)
        row: dict[str, Any] = {name: getattr(item, name) for name in _KINDS}
        row["image"] = {"bytes": image, "path": item.image}
        row["mask"] = {"bytes": mask, "path": f"{item.name}.png"}
        self._rows.append(row)
        self._num_bytes += len(image) + len(mask)
        if self._num_bytes >= _GROUP_BYTES:
            self._write()

    def _write(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, _schema()))
        self._rows, self._num_bytes = [], 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._rows:
            self._write()
        self._writer.close()


def encode(item: Item, style: Style) -> Encoded:
    """Nothing: all of a label is in its `Table`."""
    return Encoded()


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """The card."""
    size = next((name for limit, name in _SIZES if lines.num_labels < limit), "n>1M")
    values = "object numbers from 1 on" if style.instances else "255 for what stands out, else 0"
    yield (
        "README.md",
        [
            f"""---
pretty_name: Saliency pseudo labels
task_categories:
- image-segmentation
tags:
- saliency
- pseudo-labels
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# Saliency pseudo labels

{lines.num_labels:,} photographs with masks of what stands out in them. a2s made the masks, without
human labels, except those whose `review` is not `none`.

| column | meaning |
|---|---|
| `image` | the photograph |
| `mask` | PNG of the same size: {values} |
| `key` | path of the photograph without suffix, escaped |
| `width`, `height` | size in pixels |
| `quality` | F-measure that a2s expects of the mask, 0 to 1; it was not measured |
| `no_object` | whether a2s found that nothing stands out |
| `review` | `none`, `accepted` (a person kept the mask) or `fixed` (a person drew it) |

The photographs keep the rights and licences that they had.
"""
        ],
    )
