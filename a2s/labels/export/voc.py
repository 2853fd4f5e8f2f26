"""Pascal VOC segmentation: masks with a palette, XML with boxes, a list of names.

http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from a2s.data.images import BadImage
from a2s.labels.export.item import (
    CATEGORY,
    Document,
    Encoded,
    Item,
    Lines,
    Style,
    object_numbers,
    png,
)
from a2s.labels.shapes.regions import Region

MAX_OBJECTS = 254
"""255 means that a pixel does not count."""


def encode(item: Item, style: Style) -> Encoded:
    """Mask of the class, with `instances` also that of the objects, and the annotation.

    Raises:
        BadImage: there are more objects than a palette has places.
    """
    objects = item.objects(style)
    if len(objects) > MAX_OBJECTS:
        raise BadImage("too_many_objects", f"{len(objects):,}, VOC has room for {MAX_OBJECTS}")
    files = {f"SegmentationClass/{item.name}.png": _paletted(item.mask_HW.astype(np.uint8))}
    if style.instances:
        numbers_HW = object_numbers(item, style)
        files[f"SegmentationObject/{item.name}.png"] = _paletted(numbers_HW)
    files[f"Annotations/{item.name}.xml"] = _annotation(item, objects).encode()
    return Encoded(files=files, lines={"names": [item.name]})


def _paletted(index_HW: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> bytes:
    image = Image.fromarray(index_HW).convert("P")
    image.putpalette([value for index in range(256) for value in _colour(index)])
    return png(image)


def _colour(index: int) -> tuple[int, ...]:
    """The colour of VOC's palette: bits 0, 3 and 6 of the index are the highest bits of red."""
    return tuple(
        sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
        for channel in range(3)
    )


def _annotation(item: Item, objects: list[Region]) -> str:
    folder, _, file = item.image.rpartition("/")
    facts = "".join(f"\t<{name}>{value}</{name}>\n" for name, value in item.facts.items())
    boxes = "".join(map(_object, objects))
    return (
        f"<annotation>\n\t<folder>{escape(folder)}</folder>\n"
        f"\t<filename>{escape(file)}</filename>\n\t<source><database>a2s</database></source>\n"
        f"\t<size><width>{item.width}</width><height>{item.height}</height><depth>3</depth></size>"
        f"\n\t<segmented>1</segmented>\n{facts}{boxes}</annotation>\n"
    )


def _object(one: Region) -> str:
    # VOC counts pixels from 1, and the last one belongs to the box.
    x, y, width, height = one.box
    corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
    box = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
    return (
        f"\t<object>\n\t\t<name>{CATEGORY}</name>\n\t\t<pose>Unspecified</pose>\n"
        f"\t\t<truncated>0</truncated>\n\t\t<difficult>0</difficult>\n\t\t<bndbox>{box}</bndbox>\n"
        "\t</object>\n"
    )


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """The list of names, and the colours of the classes."""
    yield "ImageSets/Segmentation/train.txt", (f"{name}\n" for name in lines.of("names"))
    yield "labelmap.txt", [f"background:0,0,0::\n{CATEGORY}:{','.join(map(str, _colour(1)))}::\n"]
