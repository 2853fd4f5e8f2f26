"""Every format, read back by independent readers: the masks are those of the labels."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from export_run import ROTATED, brush_stroke, export, write_folders, written
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from a2s.data.images import decode
from a2s.data.keys import encode_key
from a2s.labels.export.names import file_name
from a2s.labels.shapes import brush
from a2s.labels.shapes.polygons import polygon_mask


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    return write_folders(tmp_path_factory.mktemp("export"))


def exported(folders, out: Path, form: str, *flags: object) -> Path:
    done = export(folders, out, form, *flags)
    assert done.code == 0, done.stderr
    assert "holds 9 labels" in done.stdout
    listed = [json.loads(line) for line in (out / "labels.jsonl").read_text().splitlines()]
    assert [one["key"] for one in listed] == list(folders.masks)
    assert [one["quality"] for one in listed] == list(folders.quality.values())
    assert [one["no_object"] for one in listed] == [not m.any() for m in folders.masks.values()]
    assert not (out / ".parts").exists()
    return out


def images_are_upright(folders, folder: Path) -> None:
    for key, mask_HW in folders.masks.items():
        (path,) = folder.glob(f"{file_name(key).replace('[', '[[]')}.*")
        assert decode(path.read_bytes()).shape[:2] == mask_HW.shape
        with Image.open(path) as image:
            assert image.size == mask_HW.shape[::-1], "programs without EXIF see it upright"


@pytest.mark.parametrize("flags", [(), ("--polygons",), ("--instances",)])
def test_coco(flags, folders, tmp_path: Path) -> None:
    out = exported(folders, tmp_path / "out", "coco", *flags)
    images_are_upright(folders, out / "images")
    coco = COCO(str(out / "instances.json"))
    by_key = {image["key"]: image for image in coco.dataset["images"]}
    for key, mask_HW in folders.masks.items():
        image = by_key[key]
        assert (out / "images" / image["file_name"]).is_file()
        assert (image["height"], image["width"]) == mask_HW.shape
        assert image["quality"] == folders.quality[key]
        own = coco.loadAnns(coco.getAnnIds(image["id"]))
        masks = [coco.annToMask(one).astype(bool) for one in own]
        assert (np.any(masks, axis=0) == mask_HW).all() if masks else not mask_HW.any()
        for one, found_HW in zip(own, masks, strict=True):
            y, x = np.nonzero(found_HW)
            box = [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert (one["bbox"], one["area"]) == (box, found_HW.sum())
            assert (one["iscrowd"], one["category_id"]) == (0, 1)
            assert one["attributes"]["review"] == "none"
        _, num_objects = ndimage.label(mask_HW, np.ones((3, 3)))
        assert len(own) == (num_objects if flags == ("--instances",) else min(1, num_objects))
    numbers = [one["id"] for one in coco.dataset["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("flags", [(), ("--instances",)])
def test_yolo(flags, folders, tmp_path: Path) -> None:
    out = exported(folders, tmp_path / "out", "yolo", *flags)
    settings = yaml.safe_load((out / "data.yaml").read_text())
    assert settings == {"train": "images", "val": "images", "names": {0: "salient"}}
    for path in (out / "images").rglob("*.*"):
        # As Ultralytics finds the labels of an image.
        label = Path("/labels/".join(str(path).rsplit("/images/", 1))).with_suffix(".txt")
        with Image.open(path) as image:
            width, height = image.size
        found = np.zeros((height, width), bool)
        for line in label.read_text().splitlines():
            category, *values = line.split()
            assert category == "0"
            points = np.asarray(values, float).reshape(-1, 2)
            assert ((points >= 0) & (points <= 1)).all()
            corners = np.round(points * (width, height), 2)
            found ^= polygon_mask(corners, height=height, width=width)
        name = str(label.relative_to(out / "labels").with_suffix(""))
        (key,) = [
            key for key in folders.masks if file_name(key) in (name, name.replace("%69", "i"))
        ]
        assert (found == folders.masks[key]).all(), key


@pytest.mark.parametrize("flags", [(), ("--instances",)])
def test_voc(flags, folders, tmp_path: Path) -> None:
    out = exported(folders, tmp_path / "out", "voc", *flags)
    images_are_upright(folders, out / "JPEGImages")
    names = (out / "ImageSets/Segmentation/train.txt").read_text().splitlines()
    assert names == [file_name(key) for key in folders.masks]
    for key, name in zip(folders.masks, names, strict=True):
        mask_HW = folders.masks[key]
        with Image.open(out / f"SegmentationClass/{name}.png") as image:
            assert image.mode == "P"
            assert image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
            assert (np.asarray(image) == mask_HW).all()
        root = ElementTree.parse(out / f"Annotations/{name}.xml").getroot()
        size = tuple(int(root.findtext(f"size/{side}")) for side in ("height", "width"))
        assert size == mask_HW.shape
        assert (out / "JPEGImages" / root.findtext("folder") / root.findtext("filename")).is_file()
        boxes = [
            [int(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
            for box in root.iter("bndbox")
        ]
        if flags:
            with Image.open(out / f"SegmentationObject/{name}.png") as image:
                numbers_HW = np.asarray(image)
            assert ((numbers_HW > 0) == mask_HW).all()
            parts = [numbers_HW == number for number in range(1, int(numbers_HW.max()) + 1)]
        else:
            assert not (out / "SegmentationObject").exists()
            parts = [mask_HW] if mask_HW.any() else []
        assert boxes == [
            [x.min() + 1, y.min() + 1, x.max() + 1, y.max() + 1] for y, x in map(np.nonzero, parts)
        ]


@pytest.mark.parametrize("flags", [(), ("--instances", "--image-root", "s3://bucket/x/")])
def test_label_studio(flags, folders, tmp_path: Path) -> None:
    out = exported(folders, tmp_path / "out", "labelstudio", *flags)
    images_are_upright(folders, out / "images")
    (file,) = (out / "tasks").iterdir()
    tasks = json.loads(file.read_text())
    assert [task["data"]["key"] for task in tasks] == list(folders.masks)
    for task in tasks:
        data, (prediction,) = task["data"], task["predictions"]
        root = "s3://bucket/x/" if flags else "/data/local-files/?d=out/images/"
        assert data["image"].startswith(root)
        mask_HW = folders.masks[data["key"]]
        assert prediction["score"] == data["quality"] == folders.quality[data["key"]]
        found_HW = np.zeros_like(mask_HW)
        for one in prediction["result"]:
            assert (one["type"], one["value"]["brushlabels"]) == ("brushlabels", ["salient"])
            assert (one["original_height"], one["original_width"]) == mask_HW.shape
            height, width = mask_HW.shape
            found_HW |= brush.decode(one["value"]["rle"], height=height, width=width)
        assert (found_HW == mask_HW).all()
    config = ElementTree.parse(out / "label_config.xml").getroot()
    assert config.find("BrushLabels/Label").attrib["value"] == "salient"


def test_brush_strokes_are_those_of_label_studio(folders) -> None:
    converter = pytest.importorskip("label_studio_converter.brush")
    for mask_HW in folders.masks.values():
        words = converter.decode_rle(brush_stroke(mask_HW))
        assert (np.reshape(words, (*mask_HW.shape, 4))[..., 3] == mask_HW * 255).all()
        theirs = converter.encode_rle(np.repeat(mask_HW.ravel() * np.uint8(255), 4))
        height, width = mask_HW.shape
        assert (brush.decode(theirs, height=height, width=width) == mask_HW).all()


@pytest.mark.parametrize("flags", [(), ("--polygons",), ("--instances",)])
def test_cvat(flags, folders, tmp_path: Path) -> None:
    out = exported(folders, tmp_path / "out", "cvat", *flags)
    images_are_upright(folders, out / "images")
    root = ElementTree.parse(out / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    assert root.findtext("meta/task/size") == "9"
    images = root.findall("image")
    assert [int(image.attrib["id"]) for image in images] == list(range(9))
    for key, image in zip(folders.masks, images, strict=True):
        assert (out / "images" / image.attrib["name"]).is_file()
        found_HW = np.zeros_like(folders.masks[key])
        for shape in image:
            assert shape.attrib["label"] == "salient"
            assert shape.find("attribute[@name='quality']").text == str(folders.quality[key])
            if shape.tag == "polygon":
                corners = [pair.split(",") for pair in shape.attrib["points"].split(";")]
                height, width = found_HW.shape
                found_HW |= polygon_mask(np.asarray(corners, float), height=height, width=width)
                continue
            x, y, width, height = (
                int(shape.attrib[name]) for name in ("left", "top", "width", "height")
            )
            counts = [int(count) for count in shape.attrib["rle"].split(", ")]
            inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
            found_HW[y : y + height, x : x + width] |= inside.reshape(height, width)
        assert (found_HW == folders.masks[key]).all()
    assert json.loads((out / "labels.json").read_text())[0]["name"] == "salient"


@pytest.mark.parametrize("form", ["png", "fiftyone"])
@pytest.mark.parametrize("flags", [(), ("--instances",)])
def test_folders_of_masks(form: str, flags, folders, tmp_path: Path) -> None:
    out = exported(folders, tmp_path / "out", form, *flags)
    if form == "fiftyone":
        images_are_upright(folders, out / "data")
    for key, mask_HW in folders.masks.items():
        path = out / {"png": "masks", "fiftyone": "labels"}[form] / f"{file_name(key)}.png"
        with Image.open(path) as image:
            values_HW = np.asarray(image)
        assert ((values_HW > 0) == mask_HW).all()
        assert set(np.unique(values_HW)) <= ({*range(50)} if flags else {0, 255})


def test_hugging_face(folders, tmp_path: Path) -> None:
    out = exported(folders, tmp_path / "out", "hf")
    (file,) = (out / "data").iterdir()
    assert file.name == "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert set(features) == set(table.column_names)
    for row in table.to_pylist():
        mask_HW = folders.masks[row["key"]]
        with Image.open(io.BytesIO(row["mask"]["bytes"])) as image:
            assert ((np.asarray(image) > 0) == mask_HW).all()
        assert decode(row["image"]["bytes"]).shape[:2] == mask_HW.shape
        assert row["quality"] == pytest.approx(folders.quality[row["key"]])
    _, card, text = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(card)["configs"][0]["data_files"][0]["path"] == "data/*.parquet"
    assert "9 photographs" in text


def test_hugging_face_loads_it(folders, tmp_path: Path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets")
    out = exported(folders, tmp_path / "out", "hf")
    rows = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    for row in rows:
        mask_HW = folders.masks[row["key"]]
        assert row["image"].size == row["mask"].size == mask_HW.shape[::-1]
        assert ((np.asarray(row["mask"]) > 0) == mask_HW).all()


def test_images_that_stand_upright_are_copied_byte_by_byte(folders, tmp_path: Path) -> None:
    from a2s.data.index import Index

    done = export(folders, tmp_path / "out", "coco")
    assert "1 images were turned upright" in done.stdout
    index = Index.load(folders.data)
    files = written(tmp_path / "out")
    for row in range(len(index)):
        name = file_name(index.key(row))
        (data,) = [data for path, data in files.items() if path.startswith(f"images/{name}.")]
        assert (data == index.read(row)) == (index.key(row) != encode_key(ROTATED))


def test_without_images_their_names_stay(folders, tmp_path: Path) -> None:
    export(folders, tmp_path / "with", "coco")
    export(folders, tmp_path / "without", "coco", "--no-images")
    assert not (tmp_path / "without" / "images").exists()
    documents = [(tmp_path / name / "instances.json").read_bytes() for name in ("with", "without")]
    assert documents[0] == documents[1]


@pytest.mark.parametrize("form", ["voc", "labelstudio"])
def test_too_many_objects_for_a_format_are_listed(form: str, tmp_path: Path) -> None:
    dots = np.zeros((80, 80), bool)
    dots[::2, ::2] = True
    folders = write_folders(tmp_path, {"dots": dots, "one": dots & False})
    done = export(folders, tmp_path / "out", form, "--instances")
    assert done.code == 3
    (line,) = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "too_many_objects"
    assert export(folders, tmp_path / "png", "png", "--instances").code == 0
    with Image.open(tmp_path / "png" / "masks" / "dots.png") as image:
        assert np.asarray(image).max() == 1600
