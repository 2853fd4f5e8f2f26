"""Read data and label shards in three ways, two of them without a2s.

    python examples/read_shards.py DATA LABELS

DATA is the folder of `a2s shard`, LABELS that of `a2s label`. Keys pair an image with its label.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import webdataset
from PIL import Image


def with_webdataset(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Stream (key, bytes) with the webdataset library."""
    tars = sorted(map(str, folder.glob("shard-*.tar")))
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        # A sample has `__key__`, `__url__` and its member, named by its suffix.
        (suffix,) = [name for name in sample if not name.startswith("__") and name != "mask.png"]
        yield sample["__key__"], sample[suffix]


def with_tarfile(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Stream (key, bytes) with Python's own tarfile."""
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                file = tar.extractfile(member)
                if file is not None and suffix != "mask.png":
                    yield key, file.read()


def by_address(folder: Path, key: str) -> bytes:
    """Read one sample without reading the tar: the Parquet file says where it lies."""
    for path in sorted(folder.glob("shard-*.parquet")):
        rows = pq.read_table(path, columns=["key", "offset", "size"], filters=[("key", "=", key)])
        for row in rows.to_pylist():
            with path.with_suffix(".tar").open("rb") as tar:
                tar.seek(row["offset"])
                return tar.read(row["size"])
    raise KeyError(key)


def main() -> None:
    """Print the foreground share of every label, and check that all ways agree."""
    data, labels = map(Path, sys.argv[1:])
    label_by_key = dict(with_webdataset(labels))
    assert label_by_key == dict(with_tarfile(labels))
    for key, image in with_tarfile(data):
        assert by_address(data, key) == image
        size = Image.open(io.BytesIO(image)).size
        if key in label_by_key:
            mask_HW = np.asarray(Image.open(io.BytesIO(label_by_key[key])))
            print(f"{key}: {size[0]}x{size[1]}, {(mask_HW > 127).mean():.1%} foreground")
        else:
            print(f"{key}: {size[0]}x{size[1]}, no label")


if __name__ == "__main__":
    main()
