"""Labels of other images are refused by every command that pairs labels with data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from PIL import Image
from processes import call

from a2s.api.label_set import LabelSet
from a2s.data.index import Index
from a2s.data.shards import sealed
from a2s.errors import DataError
from a2s.evaluation.agreement import sampled_agreement
from a2s.evaluation.pictures.contact_sheet import write_sheet
from a2s.storage.files import read_json
from a2s.storage.hashing import sha256_file

TRAINING = (
    *("--encoder.name", "mobilenet_v2", "--image-size", 32, "--batch-size", 2, "--epochs", 1),
    *("--loader-workers", 0),
)


class Pair(NamedTuple):
    """Labels, and data of other images with the same names and sizes."""

    labels: Path
    made_of: Path
    remade: Path


@pytest.fixture(scope="module")
def pair(scenes, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    root = tmp_path_factory.mktemp("pair")
    (root / "mirrored").mkdir()
    for path in scenes.images.iterdir():
        mirrored = Image.open(path).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        mirrored.save(root / "mirrored" / path.name)
    for images, name in ((scenes.images, "data"), (root / "mirrored", "remade")):
        packed = call(
            *("shard", images, "--masks", scenes.masks, "--out", root / name),
            *("--shard-size", 3, "--workers", 0),
        )
        assert packed.code == 0, packed.stderr
    labelled = call(
        *("label", "--model", "rbd", "--data", root / "data", "--out", root / "labels"),
        *("--workers", 0),
    )
    assert labelled.code == 0, labelled.stderr
    return Pair(root / "labels", root / "data", root / "remade")


def command(name: str, labels: Path, data: Path, out: Path) -> tuple[object, ...]:
    both = ("--labels", labels, "--data", data)
    arguments = {
        "stage1": (*both, "--out", out, *TRAINING),
        "stage2": (*both, "--out", out, *TRAINING, "--warm-epochs", 1),
        "snapshot": (*both, "--model", out.parent, "--out", out),
        "export": (labels, "--data", data, "--format", "png", "--out", out, "--workers", 0),
        "evaluate": ("--pred", labels, "--truth", data, "--out", out),
        "review": (labels, "--data", data),
    }
    return (name, *arguments[name])


@pytest.mark.parametrize("name", ["stage1", "stage2", "snapshot", "export", "evaluate", "review"])
def test_every_command_refuses_them_and_writes_nothing(
    name: str, pair: Pair, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = call(*command(name, pair.labels, pair.remade, out))
    assert done.code == 2
    message = f"4 of 4 labels in {pair.labels} were made of other images than those of"
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(out.glob("*"))


def test_the_report_of_a_run_refuses_them(pair: Pair, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    shutil.copytree(pair.labels, labels)
    config = labels / "config.yaml"
    config.write_text(config.read_text().replace(str(pair.made_of), str(pair.remade)))
    done = call("report", labels)
    assert (done.code, list(labels.glob("*.html"))) == (2, [])
    assert f"4 of 4 labels in {labels} were made of other images than those of" in done.stderr


def test_so_do_python_and_the_pictures_of_a_run(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"4 of 4 labels in .* were made of other images"):
        LabelSet(pair.labels).dataset(pair.remade)
    with pytest.raises(DataError, match=r"4 of 4 labels in .* were made of other images"):
        sampled_agreement(data=pair.remade, labels=pair.labels, preds=None)
    sheet = {"maps": None, "labels": pair.labels, "preds": tmp_path, "truth": None}
    with pytest.raises(DataError, match=r"4 of 4 labels in .* were made of other images"):
        write_sheet(tmp_path / "sheet.png", data=pair.remade, **sheet)


def test_labels_that_do_not_say_of_what_they_were_made_are_taken(
    pair: Pair, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    shutil.copytree(pair.labels, labels)
    for path in labels.glob("shard-*.json"):
        manifest = json.loads(path.read_text())
        del manifest["data_sha256"]
        path.write_text(json.dumps(sealed(manifest)))
    for name in ("stage2", "export", "evaluate"):
        done = call(*command(name, labels, pair.remade, tmp_path / name))
        assert done.code == 0, done.stderr
    assert len(LabelSet(labels).dataset(pair.remade)) == 4


def test_corrected_labels_say_of_what_they_were_made(pair: Pair, tmp_path: Path) -> None:
    done = call(*command("stage2", pair.labels, pair.made_of, tmp_path / "s2"))
    assert done.code == 0, done.stderr
    made_of = [shard.made_of for shard in Index.load(tmp_path / "s2" / "rectified").shards]
    assert made_of == [shard.sha256 for shard in Index.load(pair.made_of).shards]


@pytest.fixture(scope="module")
def again(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of the labels in shards of another size, and so in other shards."""
    out = tmp_path_factory.mktemp("again") / "data"
    packed = call("shard", scenes.images, "--out", out, "--shard-size", 2, "--workers", 0)
    assert packed.code == 0, packed.stderr
    return out


@pytest.mark.parametrize("name", ["stage1", "stage2", "export", "evaluate"])
def test_the_same_images_packed_anew_are_a_pair(
    name: str, pair: Pair, again: Path, scenes, tmp_path: Path
) -> None:
    data = again
    if name == "evaluate":
        # It needs truths.
        data = tmp_path / "with masks"
        both = (scenes.images, "--masks", scenes.masks, "--out", data)
        assert call("shard", *both, "--shard-size", 2, "--workers", 0).code == 0
    # Heads over untrained features need not agree.
    more = ("--min-agreement", 0) if name == "stage1" else ()
    done = call(*command(name, pair.labels, data, tmp_path / "out"), *more)
    assert done.code == 0, done.stderr
    if name == "evaluate":
        assert call(*command(name, pair.labels, pair.made_of, tmp_path / "first")).code == 0
        both = [read_json(tmp_path / out / "scores.json") for out in ("out", "first")]
        assert both[0]["adaptive_f"] == both[1]["adaptive_f"]


def test_so_they_are_for_python(pair: Pair, again: Path) -> None:
    first, now = (LabelSet(pair.labels).dataset(data) for data in (pair.made_of, again))
    assert len(first) == len(now) == 4
    for number in range(4):
        assert all((a == b).all() for a, b in zip(first[number], now[number], strict=True))
    assert "image_crc32" not in LabelSet(pair.labels)[0].numbers


def test_one_changed_image_is_named(pair: Pair, scenes, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    paths = sorted(scenes.images.iterdir())
    for path in paths:
        shutil.copy(path, tmp_path / "in")
    mirrored = Image.open(paths[2]).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(tmp_path / "in" / paths[2].name)
    data = tmp_path / "data"
    assert call("shard", tmp_path / "in", "--out", data, "--workers", 0).code == 0
    done = call(*command("stage2", pair.labels, data, tmp_path / "s2"))
    assert done.code == 2
    assert f"1 of 4 labels in {pair.labels} were made of other images" in done.stderr
    assert f"(the first is {paths[2].stem})" in done.stderr


def test_labels_of_older_versions_of_images_packed_anew_are_told_what_to_do(
    pair: Pair, again: Path, tmp_path: Path
) -> None:
    labels = shutil.copytree(pair.labels, tmp_path / "labels")
    for path in labels.glob("shard-*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("image_crc32"), path)
        manifest = read_json(path.with_suffix(".json"))
        changed = {**manifest, "parquet_sha256": sha256_file(path)}
        path.with_suffix(".json").write_text(json.dumps(sealed(changed)))
    done = call(*command("stage2", labels, again, tmp_path / "s2"))
    assert done.code == 2
    assert f"packed anew); give the data with which they were made ({pair.made_of})" in done.stderr
    assert f"or label these images: a2s label --data {again} --out NEW" in done.stderr
    assert call(*command("stage2", labels, pair.made_of, tmp_path / "s2")).code == 0
