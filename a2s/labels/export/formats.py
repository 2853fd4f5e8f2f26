"""The formats, by name. To add one, add a file here and a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from a2s.labels.export import (
    coco,
    cvat,
    fiftyone,
    hugging_face,
    label_studio,
    png,
    voc,
    yolo,
)
from a2s.labels.export.item import Document, Encoded, Item, Lines, Style


@dataclass(frozen=True)
class Format:
    """One format."""

    encode: Callable[[Item, Style], Encoded]
    documents: Callable[[Lines, Style], Iterator[Document]]
    """Files about all labels, written when every label is."""
    images: str | None
    """Folder of the images; None if they are not copied."""
    as_jpeg: bool = False
    """Whether every image must be a JPEG."""
    safe_path: Callable[[str], str] = str
    """What becomes of paths that mean something else to the program."""
    has_tables: bool = False
    """Whether labels and images go into tables of `hugging_face`."""


FORMATS = {
    "coco": Format(coco.encode, coco.documents, "images"),
    "yolo": Format(yolo.encode, yolo.documents, "images", safe_path=yolo.safe_path),
    "voc": Format(voc.encode, voc.documents, "JPEGImages", as_jpeg=True),
    "labelstudio": Format(label_studio.encode, label_studio.documents, "images"),
    "cvat": Format(cvat.encode, cvat.documents, "images"),
    "hf": Format(hugging_face.encode, hugging_face.documents, None, has_tables=True),
    "fiftyone": Format(fiftyone.encode, fiftyone.documents, "data"),
    "png": Format(png.encode, png.documents, None),
}
