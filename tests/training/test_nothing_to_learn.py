"""Images and labels from which nothing can be learned are refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from label_shards import EMPTY, FULL, MISSING, write_labels
from PIL import Image
from processes import call

from a2s.data.content import check_content
from a2s.data.index import Index
from a2s.errors import DataError

TRAINING = (
    *("--encoder.name", "mobilenet_v2", "--image-size", 32, "--batch-size", 2, "--epochs", 1),
    *("--loader-workers", 0),
)


class Sets(NamedTuple):
    """Data of scenes, and of images that show nothing."""

    scenes: Path
    plain: Path
    copies: Path
    some_copies: Path


def packed(folder: Path, pictures: dict[str, Image.Image], *flags: object) -> Path:
    images, out = folder / "images", folder / "data"
    images.mkdir(parents=True)
    for name, picture in pictures.items():
        picture.save(images / name)
    done = call("shard", images, "--out", out, "--workers", 0, *flags)
    assert done.code == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def sets(scenes, tmp_path_factory: pytest.TempPathFactory) -> Sets:
    root = tmp_path_factory.mktemp("sets")
    paths = sorted(scenes.images.iterdir())[:4]
    shown = {path.name: Image.open(path).convert("RGB") for path in paths}
    first = shown[paths[0].name]
    plain = {f"{i}.png": Image.new("RGB", (40, 30), (20 * i, 90, 3 * i)) for i in range(4)}
    return Sets(
        packed(root / "scenes", shown),
        packed(root / "plain", plain),
        packed(root / "copies", {f"{i}.png": first for i in range(3)}),
        packed(root / "some", shown | dict.fromkeys(("a.png", "b.png", "c.png"), first)),
    )


def test_plain_images_are_refused_unless_one_shows_something(sets: Sets, tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(118, 122, (30, 40, 3), dtype=np.uint8)
    one = {"a.png": Image.new("RGB", (40, 30)), "b.png": Image.fromarray(noisy)}
    with pytest.raises(DataError, match=r"stage1: each of the 4 images of .* has one colour"):
        check_content(Index.load(sets.plain), command="stage1")
    assert check_content(Index.load(packed(tmp_path, one)), command="stage1") == 0


def test_copies_are_counted(sets: Sets) -> None:
    assert check_content(Index.load(sets.scenes), command="stage1") == 0
    assert check_content(Index.load(sets.some_copies), command="stage1") == 2
    with pytest.raises(DataError, match=r"all 3 images of .* are copies of one file"):
        check_content(Index.load(sets.copies), command="stage1")


@pytest.mark.parametrize("name", ["plain", "copies"])
def test_stage1_refuses_them_in_one_line(sets: Sets, name: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = call("stage1", "--data", getattr(sets, name), "--out", out, *TRAINING)
    assert ended.code == 2
    assert "nothing to learn from; give" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not out.exists()


def test_stage1_says_that_images_are_few(sets: Sets, tmp_path: Path) -> None:
    few = ("--batch-size", 8, "--heads", 5, "--epochs", 1)
    ended = call("stage1", "--data", sets.scenes, "--out", tmp_path, *TRAINING, *few)
    assert "only 4 images, for batches of 8: each step sees them all" in ended.stderr
    assert "only 4 images for 5 heads, whose agreement on so few tells little" in ended.stderr
    enough = call("stage1", "--data", sets.scenes, "--out", tmp_path / "b", *TRAINING)
    assert "only" not in enough.stderr


def test_stage1_says_how_many_are_copies(sets: Sets, tmp_path: Path) -> None:
    ended = call("stage1", "--data", sets.some_copies, "--out", tmp_path / "run", *TRAINING)
    assert ended.code == 0, ended.stderr
    assert "stage1: 2 of 7 images are copies of others" in ended.stderr


@pytest.mark.parametrize("command", ["stage1", "stage2"])
def test_labels_without_an_object_are_refused(sets: Sets, command: str, tmp_path: Path) -> None:
    odd = {0: EMPTY, 1: FULL, 2: EMPTY, 3: MISSING}
    labels, out = write_labels(sets.scenes, tmp_path / "labels", odd=odd), tmp_path / "run"
    ended = call(command, "--data", sets.scenes, "--labels", labels, "--out", out, *TRAINING)
    assert ended.code == 2
    assert f"labels: no label of {labels} tells an object from its ground" in ended.stderr
    assert not list(out.glob("checkpoints/*"))


def test_one_label_with_an_object_is_enough(sets: Sets, tmp_path: Path) -> None:
    odd = {0: EMPTY, 1: FULL, 2: EMPTY}
    labels, out = write_labels(sets.scenes, tmp_path / "labels", odd=odd), tmp_path / "run"
    ended = call("stage2", "--data", sets.scenes, "--labels", labels, "--out", out, *TRAINING)
    assert ended.code == 0, ended.stderr
