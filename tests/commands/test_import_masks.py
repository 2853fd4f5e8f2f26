"""`a2s import-masks`: corrected masks become decisions; what cannot be used is listed."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export_run import ROTATED, Folders, brush_stroke, export, write_folders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import Finished, call

from a2s.data.images import decode_mask, encode_png
from a2s.data.keys import encode_key
from a2s.labels.export.names import file_name
from a2s.labels.review import Decision, append_decisions, now, read_decisions
from a2s.labels.shapes.regions import regions
from a2s.labels.shapes.run_lengths import coco_counts, compress


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return write_folders(tmp_path)


def import_masks(folders: Folders, values: Any, *flags: object) -> Finished:
    file = folders.data.parent / "corrected.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    return call("import-masks", file, "--labels", folders.labels, *flags)


def coco_of(folders: Folders) -> dict[str, Any]:
    out = folders.data.parent / "coco"
    assert export(folders, out, "coco").code == 0
    values: dict[str, Any] = json.loads((out / "instances.json").read_text())
    return values


def annotated(folders: Folders) -> list[dict[str, Any]]:
    """Tasks whose predictions were submitted as they are, as Label Studio exports them."""
    out = folders.data.parent / "label-studio"
    assert export(folders, out, "labelstudio").code == 0
    tasks: list[dict[str, Any]] = json.loads((out / "tasks" / "000000.json").read_text())
    for number, task in enumerate(tasks):
        (prediction,) = task.pop("predictions")
        task |= {"id": number, "annotations": [{"id": number, "result": prediction["result"]}]}
    return tasks


def stroke(mask_HW: np.ndarray) -> dict[str, Any]:
    return {
        "type": "brushlabels",
        "original_width": mask_HW.shape[1],
        "original_height": mask_HW.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush_stroke(mask_HW), "brushlabels": ["salient"]},
    }


def check(folders: Folders, key: str, mask_HW: np.ndarray, source: str) -> None:
    decision = read_decisions(folders.labels)[key]
    assert (decision.verdict, decision.source) == ("fixed", source)
    assert decision.mask_png is not None
    assert (decode_mask(decision.mask_png) == mask_HW * 255).all()


def test_label_studio(folders: Folders) -> None:
    tasks, keys = annotated(folders), list(folders.masks)
    corrected_HW = ~folders.masks[keys[0]]
    half_HW = folders.masks[keys[0]]
    # Two strokes, in a later annotation than the one that stands first.
    tasks[0]["annotations"] = [
        {"result": [stroke(corrected_HW), stroke(half_HW & False)], "updated_at": "2026-02-01"},
        {"result": [], "updated_at": "2026-01-01"},
        {"result": [], "updated_at": "2026-03-01", "was_cancelled": True},
    ]
    tasks[1]["annotations"] = []
    # Nothing stands out, says an annotation without a stroke.
    tasks[2]["annotations"][0]["result"] = []
    del tasks[3]["data"]["key"]
    done = import_masks(folders, tasks)
    assert done.code == 0, done.stderr
    assert "2 labels fixed, 6 accepted, 0 decided before; 1 images left out" in done.stdout
    check(folders, keys[0], corrected_HW, "labelstudio")
    check(folders, keys[2], folders.masks[keys[2]] & False, "labelstudio")
    found = read_decisions(folders.labels)
    assert found.keys() == {*keys} - {keys[1]}
    assert found[keys[3]].verdict == "accepted"
    before = (folders.labels / "review.jsonl").read_bytes()
    again = import_masks(folders, tasks)
    assert "0 labels fixed, 0 accepted, 8 decided before" in again.stdout
    assert (folders.labels / "review.jsonl").read_bytes() == before
    # Exports carry the masks, and their export is what was decided already.
    assert "0 labels fixed, 1 accepted" in import_masks(folders, coco_of(folders)).stdout


def test_masks_that_nobody_touched_leave_decisions_alone(folders: Folders) -> None:
    keys = list(folders.masks)
    tasks = annotated(folders)
    other = [encode_png(~folders.masks[key] * np.uint8(255)) for key in keys[:2]]
    before = [
        Decision(keys[0], "fixed", other[0], now()),
        Decision(keys[1], "fixed", other[1], now()),
        Decision(keys[2], "rejected", None, now()),
        Decision(keys[3], "rejected", None, now()),
    ]
    append_decisions(folders.labels, before)
    # A person corrected two of these masks in Label Studio.
    corrected = folders.masks[keys[1]] & False, ~folders.masks[keys[3]]
    tasks[1]["annotations"][0]["result"] = [stroke(corrected[0])]
    tasks[3]["annotations"][0]["result"] = [stroke(corrected[1])]
    done = import_masks(folders, tasks)
    assert done.code == 0, done.stderr
    assert "2 labels fixed, 5 accepted, 2 decided before" in done.stdout
    assert "the fixes replace 2 decisions (1 fixed, 1 rejected)" in done.stdout
    found = read_decisions(folders.labels)
    assert [found[keys[0]], found[keys[2]]] == [before[0], before[2]]
    check(folders, keys[1], corrected[0], "labelstudio")
    check(folders, keys[3], corrected[1], "labelstudio")


@pytest.mark.parametrize("kind", ["counts", "compressed", "polygon"])
def test_coco(kind: str, folders: Folders) -> None:
    values, key = coco_of(folders), "a/ring"
    corrected_HW = np.zeros_like(folders.masks[key])
    corrected_HW[2:9, 5:11] = True
    (one,) = regions(corrected_HW, instances=False)
    counts, size = coco_counts(one), list(corrected_HW.shape)
    shapes = {
        "counts": {"size": size, "counts": counts},
        "compressed": {"size": size, "counts": compress(counts)},
        "polygon": [[5, 2, 11, 2, 11, 9, 5, 9.0]],
    }
    (image,) = [image for image in values["images"] if image["key"] == key]
    own = [one for one in values["annotations"] if one["image_id"] == image["id"]]
    own[0]["segmentation"] = shapes[kind]
    for image in values["images"]:  # CVAT keeps names only
        del image["key"]
    done = import_masks(folders, values)
    assert done.code == 0, done.stderr
    # The image without an object may have none, or nobody has looked at it.
    assert "1 labels fixed, 7 accepted, 0 decided before; 1 images left out" in done.stdout
    assert f"{file_name('empty')}.png: left out, it has no object" in done.stdout.replace(
        ".jpg", ".png"
    )
    check(folders, key, corrected_HW, "coco")
    assert "0 labels fixed, 0 accepted, 8 decided before" in import_masks(folders, values).stdout


def test_an_image_of_the_same_name_elsewhere_is_another(folders: Folders) -> None:
    """Labels were left out for some images of a project; their masks belong to no other image."""
    values = coco_of(folders)
    images = {image["key"]: image for image in values["images"]}
    images["full"] |= {"file_name": "elsewhere/full.jpg"}
    images["a/ring"] |= {"key": "b/ring", "file_name": "a/ring.jpg"}
    del images["full"]["key"]
    done = import_masks(folders, values)
    assert done.code == 3
    assert done.stderr.count("unknown_key") == 2
    assert not {"full", "a/ring"} & set(read_decisions(folders.labels))


def test_what_cannot_be_used_is_listed(folders: Folders) -> None:
    values = coco_of(folders)
    images = {image["key"]: image for image in values["images"]}
    shapes = {image_id: one for one in values["annotations"] for image_id in [one["image_id"]]}
    chosen = ("a/ring", "full", "a/b/pixel", encode_key(ROTATED))
    ring, full, pixel, box = (shapes[images[key]["id"]] for key in chosen)
    box["segmentation"] = []
    ring["segmentation"]["counts"] = "o" * 50
    full["segmentation"] = [[1, 2, 3]]
    pixel["segmentation"]["size"] = [9, 8]
    images["CON"]["width"] += 1
    images["empty"] |= {"key": "nobody", "file_name": "\x1b[31mnobody.jpg"}
    values["images"].append(copy.deepcopy(images["images/corners"]))
    done = import_masks(folders, values)
    assert done.code == 3
    reasons = [line.split(": ")[2].split(" ")[0] for line in done.stderr.splitlines()]
    assert sorted(reasons) == [
        *("damaged", "damaged", "duplicate_key", "unknown_key", "unsupported_shape"),
        *("wrong_size", "wrong_size"),
    ]
    assert "\x1b" not in done.stderr
    assert len(read_decisions(folders.labels)) == 3
    assert import_masks(folders, values, "--max-failure-rate", 1).code == 0


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"images": ' + "9" * 5000 + "}", "is no JSON"),
        ("\x00", "is no JSON"),
        ({"a": 1}, "neither an export of Label Studio"),
        ([], "0 images, none of them"),
        ([[]], "task 0 has no data"),
        ([{"image": "x", "mask": [{"format": "rle"}]}], "not JSON-MIN"),
        ({"images": 1}, "its images are no list of records"),
        ({"images": [], "annotations": [1]}, "its annotations are no list"),
        ({"images": [], "annotations": [{"id": 1, "image_id": [1]}]}, "has no image_id"),
        ({"images": [{"id": 1, "file_name": "other.jpg"}]}, "none of them is in"),
        ({"images": [{"id": 1, "file_name": "\ud800", "key": "\ud800"}]}, "none of them is in"),
    ],
)
def test_a_file_that_is_none_is_one_line(values: Any, why: str, folders: Folders) -> None:
    done = import_masks(folders, values)
    assert done.code == 2
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folders.labels / "review.jsonl").exists()


def test_files_that_are_not_there_or_too_large(folders: Folders, monkeypatch) -> None:
    done = call("import-masks", folders.data / "none.json", "--labels", folders.labels)
    assert (done.code, "cannot be read" in done.stderr) == (2, True)
    monkeypatch.setattr("a2s.labels.corrected.decisions.MAX_BYTES", 3)
    done = import_masks(folders, [{}])
    assert (done.code, "over the limit" in done.stderr) == (2, True)


def test_too_many_polygons_are_not_filled(folders: Folders) -> None:
    values = coco_of(folders)
    values["annotations"][0]["segmentation"] = [[0, 0, 1, 1, 2, 2]] * 20_000
    done = import_masks(folders, values)
    assert "too_many_objects (20,000 are over the limit of 10,000)" in done.stderr


def test_too_many_objects_are_not_decoded(folders: Folders) -> None:
    tasks = annotated(folders)
    tasks[0]["annotations"][0]["result"] = [stroke(folders.masks["CON"])] * 20_000
    done = import_masks(folders, tasks)
    assert done.code == 3
    assert "too_many_objects (20,000 are over the limit of 10,000)" in done.stderr


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.integers(0, 30), value=ANYTHING, data=st.data())
def test_fuzz_any_value_anywhere(place: int, value: Any, data: st.DataObject, folders) -> None:
    """Whatever stands in a file, it is one line or listed, and the decisions stay readable."""
    mask_HW = folders.masks["a/b/pixel"]
    (one,) = regions(mask_HW, instances=False)
    height, width = mask_HW.shape
    image = {"id": 1, "file_name": "a/b/pixel.png", "width": width, "height": height}
    shape = {"size": [height, width], "counts": compress(coco_counts(one))}
    task = {"data": {"key": "a/b/pixel"}, "annotations": [{"result": [stroke(mask_HW)]}]}
    coco = {
        "images": [image],
        "categories": [{"id": 1, "name": "salient"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": shape}],
    }
    root: Any = data.draw(st.sampled_from([coco, [task]]))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        inner = node.items() if isinstance(node, dict) else enumerate(node)
        for name, child in inner:
            places.append((node, name))
            if isinstance(child, dict | list):
                walk(child)

    walk(root)
    node, name = places[place % len(places)]
    node[name] = value
    done = import_masks(folders, root)
    assert done.code in (0, 2, 3)
    assert "Traceback" not in done.stderr
    if (folders.labels / "review.jsonl").exists():
        assert set(read_decisions(folders.labels)) <= set(folders.masks)
