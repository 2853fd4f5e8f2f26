"""YOLO segmentation, as Ultralytics reads it: `labels/NAME.txt` beside `images/NAME.jpg`. Pure.

https://docs.ultralytics.com/datasets/segment/
"""

from __future__ import annotations

from collections.abc import Iterator

from a2s.labels.export.item import CATEGORY, Document, Encoded, Item, Lines, Style
from a2s.labels.shapes.polygons import joined, outlines

_DIGITS = 6
"""Of decimals: a hundredth of a pixel in images of 10,000."""


def safe_path(path: str) -> str:
    """A path without a folder `images`, which Ultralytics would replace by `labels`."""
    folders, slash, name = path.rpartition("/")
    escaped = ["%69mages" if folder == "images" else folder for folder in folders.split("/")]
    return "/".join(escaped) + slash + name


def encode(item: Item, style: Style) -> Encoded:
    """A line for each object: its class, and the corners of one polygon as shares of the size."""
    lines = []
    for one in item.objects(style):
        points = joined(outlines(one)) / (item.width, item.height)
        lines.append(" ".join(["0", *(f"{value:.{_DIGITS}f}" for value in points.ravel())]) + "\n")
    return Encoded(files={f"labels/{item.name}.txt": "".join(lines).encode()})


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """`data.yaml`, which names the folder and the class."""
    yield (
        "data.yaml",
        [
            "# Pseudo labels of a2s. Set val to images whose masks people drew.\n",
            "train: images\nval: images\n",
            f"names:\n  0: {CATEGORY}\n",
        ],
    )
