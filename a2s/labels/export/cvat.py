"""CVAT for images 1.1: `annotations.xml`, with masks or polygons. Pure.

https://docs.cvat.ai/docs/other/xml_format/
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from a2s.labels.export.item import CATEGORY, Document, Encoded, Item, Lines, Style
from a2s.labels.shapes.polygons import outlines
from a2s.labels.shapes.regions import Region
from a2s.labels.shapes.run_lengths import cvat_counts

_ATTRIBUTES = ("quality", "no_object", "review")


def encode(item: Item, style: Style) -> Encoded:
    """An element `image`, in one line, which lacks the number that depends on all before it."""
    attributes = "".join(
        f'<attribute name="{name}">{escape(str(value))}</attribute>'
        for name, value in item.facts.items()
    )
    shapes = _polygons if style.polygons else _mask
    inner = "".join(
        f'<{shape} label="{CATEGORY}" source="auto" occluded="0" z_order="0">'
        f"{attributes}</{shape.split()[0]}>"
        for one in item.objects(style)
        for shape in shapes(one)
    )
    size = f'width="{item.width}" height="{item.height}"'
    return Encoded(lines={"images": [f"name={quoteattr(item.image)} {size}>{inner}</image>"]})


def _mask(one: Region) -> Iterator[str]:
    x, y, width, height = one.box
    counts = ", ".join(map(str, cvat_counts(one)))
    yield f'mask rle="{counts}" left="{x}" top="{y}" width="{width}" height="{height}"'


def _polygons(one: Region) -> Iterator[str]:
    for ring in outlines(one):
        yield f'polygon points="{";".join(f"{x},{y}" for x, y in ring.tolist())}"'


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """The annotations, and the label with its attributes, for a new project of CVAT."""
    yield "annotations.xml", _text(lines, style)
    attributes = [
        {"name": name, "mutable": False, "input_type": "text", "default_value": "", "values": [""]}
        for name in _ATTRIBUTES
    ]
    label = {"name": CATEGORY, "type": _kind(style), "attributes": attributes}
    yield "labels.json", [json.dumps([label], indent=1) + "\n"]


def _kind(style: Style) -> str:
    return "polygon" if style.polygons else "mask"


def _text(lines: Lines, style: Style) -> Iterator[str]:
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute>"
        for name in _ATTRIBUTES
    )
    yield (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
        f"<meta><task><size>{lines.num_labels}</size><mode>annotation</mode><labels><label>"
        f"<name>{CATEGORY}</name><type>{_kind(style)}</type>"
        f"<attributes>{attributes}</attributes></label></labels></task></meta>\n"
    )
    for number, rest in enumerate(lines.of("images")):
        yield f'<image id="{number}" {rest}\n'
    yield "</annotations>\n"
