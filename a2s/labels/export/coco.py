"""COCO: `instances.json`, with run lengths or polygons. Pure.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from a2s.labels.export.item import CATEGORY, Document, Encoded, Item, Lines, Style, json_list
from a2s.labels.shapes.polygons import outlines
from a2s.labels.shapes.regions import Region
from a2s.labels.shapes.run_lengths import coco_counts, compress

FILE_NAME = "instances.json"
_HEAD = {
    "info": {"description": "Saliency pseudo labels made by a2s"},
    "licenses": [],
    "categories": [{"id": 1, "name": CATEGORY, "supercategory": "object"}],
}


def encode(item: Item, style: Style) -> Encoded:
    """One entry of `images`, and one of `annotations` for each object."""
    number = item.number + 1
    image = {
        "id": number,
        "file_name": item.image,
        "width": item.width,
        "height": item.height,
        "key": item.key,
        **item.facts,
    }
    annotations = [_annotation(one, number, item, style) for one in item.objects(style)]
    return Encoded(lines={"images": [json.dumps(image)], "annotations": annotations})


def _annotation(one: Region, number: int, item: Item, style: Style) -> str:
    """An entry without its number, which depends on all before it: it lacks `{"id": N, `."""
    values = {
        "image_id": number,
        "category_id": 1,
        "segmentation": _segmentation(one, style),
        "area": one.area,
        "bbox": one.box,
        "iscrowd": 0,
        "attributes": item.facts,
    }
    return json.dumps(values).removeprefix("{")


def _segmentation(one: Region, style: Style) -> Any:
    if style.polygons:
        return [ring.ravel().tolist() for ring in outlines(one)]
    return {"size": [one.height, one.width], "counts": compress(coco_counts(one))}


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """The one file of the format."""
    yield FILE_NAME, _text(lines)


def _text(lines: Lines) -> Iterator[str]:
    yield json.dumps(_HEAD).removesuffix("}") + ',\n"images": '
    yield from json_list(lines.of("images"))
    yield ',\n"annotations": '
    numbered = enumerate(lines.of("annotations"), start=1)
    yield from json_list(f'{{"id": {number}, {rest}' for number, rest in numbered)
    yield "}\n"
