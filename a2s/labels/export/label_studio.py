"""Label Studio: tasks with brush strokes as predictions, and the labelling configuration.

https://labelstud.io/guide/predictions
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from a2s.data.images import BadImage
from a2s.labels.export.item import CATEGORY, Document, Encoded, Item, Lines, Style, json_list
from a2s.labels.shapes import brush
from a2s.labels.shapes.regions import Region
from a2s.labels.shapes.run_lengths import row_counts

MAX_OBJECTS = 1000
"""Each stroke is as long as the whole image, however small its object."""
_CONTROL, _IMAGE = "mask", "image"
_CONFIG = f"""<View>
  <Image name="{_IMAGE}" value="${_IMAGE}" zoom="true" zoomControl="true"/>
  <BrushLabels name="{_CONTROL}" toName="{_IMAGE}">
    <Label value="{CATEGORY}" background="#e6194b"/>
  </BrushLabels>
</View>
"""


def encode(item: Item, style: Style) -> Encoded:
    """One task; its prediction has a brush stroke for each object, and the quality as score.

    Raises:
        BadImage: there are more objects than a page can show.
    """
    objects = item.objects(style)
    if len(objects) > MAX_OBJECTS:
        detail = f"{len(objects):,}, over the limit of {MAX_OBJECTS:,} brush strokes"
        raise BadImage("too_many_objects", detail)
    results = [_stroke(one, item, number) for number, one in enumerate(objects, start=1)]
    prediction: dict[str, Any] = {"model_version": "a2s", "result": results}
    if item.quality is not None:
        prediction["score"] = item.quality
    data = {_IMAGE: style.image_root + quote(item.image), "key": item.key, **item.facts}
    return Encoded(lines={"tasks": [json.dumps({"data": data, "predictions": [prediction]})]})


def _stroke(one: Region, item: Item, number: int) -> dict[str, Any]:
    stream = brush.encode(row_counts(one))
    return {
        "id": f"a2s-{item.number}-{number}",
        "type": "brushlabels",
        "from_name": _CONTROL,
        "to_name": _IMAGE,
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": stream, "brushlabels": [CATEGORY]},
    }


def documents(lines: Lines, style: Style) -> Iterator[Document]:
    """Files of some hundred tasks, since Label Studio limits their size, and the configuration."""
    for number, tasks in enumerate(lines.by_part("tasks")):
        if tasks:
            yield f"tasks/{number:06d}.json", json_list(tasks)
    yield "label_config.xml", [_CONFIG]
