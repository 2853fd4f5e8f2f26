"""FiftyOne's `ImageSegmentationDirectory`: `labels/NAME.png` beside `data/NAME.jpg`.

https://docs.voxel51.com/user_guide/import_datasets.html
"""

from __future__ import annotations

from collections.abc import Iterator

from a2s.labels.export.item import Document, Encoded, Item, Lines, Style, mask_png


def encode(item: Item, style: Style) -> Encoded:
    """The mask; FiftyOne finds it by the name of the image."""
    return Encoded(files={f"labels/{item.name}.png": mask_png(item, style)})


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """None: the list of labels, which every export has, tells their quality."""
    yield from ()
