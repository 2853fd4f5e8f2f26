"""Whether labels were made of the images with which they shall be used.

A label shard has the name of the data shard that it was made of, and its manifest the SHA-256 of
that shard's tar. Where they differ, the images may have been packed anew: then the checksum of each
image counts, which stands beside its label. Keys alone would pair labels with the images of any
data set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from a2s.data.index import Index
from a2s.data.shards import read_manifest
from a2s.errors import DataError
from a2s.storage.files import read_text
from a2s.storage.parsing import parse_yaml

IMAGE_CRC32 = "image_crc32"
"""Column of label shards: CRC-32 of the packed image that a label was made of."""


def refuse_other_images(labels: Index, data: Index, *, command: str) -> None:
    """Raise DataError if labels were made of other images than those of `data`.

    Labels that do not say of what they were made are taken: those of older versions and of other
    programs.
    """
    name = _first_of_others(
        {shard.name: shard.made_of for shard in labels.shards},
        {shard.name: shard.sha256 for shard in data.shards},
    )
    if name is not None:
        _refuse_unless_equal(labels, data, name, command=command)


def refuse_folders_of_other_images(labels: Path, data: Path, *, command: str) -> None:
    """As `refuse_other_images`, for folders of which nothing may be finished.

    Manifests that cannot be read say nothing; nor do folders without shards.
    """
    made_of = _manifests(labels, lambda manifest: manifest.get("data_sha256"))
    hashes = _manifests(data, lambda manifest: manifest["tar_sha256"])
    name = _first_of_others(made_of, hashes) if hashes else None
    if name is None:
        return
    try:
        indexes = Index.load(labels), Index.load(data)
    except DataError:
        raise _others(labels, data, name, command=command) from None
    _refuse_unless_equal(*indexes, name, command=command)


def _manifests(
    folder: Path, entry: Callable[[dict[str, Any]], str | None]
) -> dict[str, str | None]:
    found = {}
    for path in sorted(folder.glob("shard-*.json")):
        try:
            found[path.stem] = entry(read_manifest(path))
        except (OSError, ValueError):
            continue
    return found


def _first_of_others(
    made_of: Mapping[str, str | None], hashes: Mapping[str, str | None]
) -> str | None:
    """The first label shard that was made of another data shard than that of its name."""
    others = (n for n, one in made_of.items() if one is not None and one != hashes.get(n))
    return next(others, None)


def _refuse_unless_equal(labels: Index, data: Index, name: str, *, command: str) -> None:
    """Raise DataError unless the images are the same, one by one."""
    image_crc32_N = _image_checksums(labels)
    row_N = data.rows_of(labels.keys)
    is_there_N = row_N >= 0
    if image_crc32_N is None or not is_there_N.any():
        raise _others(labels.folder, data.folder, name, command=command)
    differs_N = is_there_N & (data.crc32_N[row_N.clip(0)] != image_crc32_N)
    if differs_N.any():
        key = labels.key(int(np.argmax(differs_N)))
        raise DataError(
            f"{command}: {int(differs_N.sum()):,} of {len(labels):,} labels in {labels.folder} "
            f"were made of other images than those of {data.folder} (the first is {key}); give the "
            f"data with which they were made{_recorded_data(labels.folder)}, or label these "
            f"images: a2s label --data {data.folder} --out NEW"
        )


def _image_checksums(labels: Index) -> Any:
    """CRC-32 of each label's image; None: not all of the labels say it. Shape: N."""
    paths = [labels.folder / f"{shard.name}.parquet" for shard in labels.shards]
    with contextlib.suppress(OSError):
        if IMAGE_CRC32 in pq.read_schema(paths[0]).names:
            column = ds.dataset(paths).to_table([IMAGE_CRC32])[IMAGE_CRC32]
            return None if column.null_count else column.to_numpy()
    return None


def _others(labels: Path, data: Path, name: str, *, command: str) -> DataError:
    return DataError(
        f"{command}: {labels} holds no labels of {data} ({name} was made of other images, or of "
        f"these before they were packed anew); give the data with which they were made"
        f"{_recorded_data(labels)}, or label these images: a2s label --data {data} --out NEW"
    )


def _recorded_data(labels: Path) -> str:
    """The data folder of a2s label, as its settings name it, in brackets; "" if they do not."""
    try:
        name = parse_yaml(read_text(labels / "config.yaml"))["label"]["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" ({name})" if isinstance(name, str) else ""
