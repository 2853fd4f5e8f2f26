"""PNG: `masks/NAME.png`, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from a2s.labels.export.item import Document, Encoded, Item, Lines, Style, mask_png


def encode(item: Item, style: Style) -> Encoded:
    """The mask."""
    return Encoded(files={f"masks/{item.name}.png": mask_png(item, style)})


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """None."""
    yield from ()
