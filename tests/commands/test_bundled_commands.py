"""Commands that need no `--model`: the models inside the package label, predict and learn on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import call, pack

from a2s.data.index import Index


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("bundled") / "data")


@pytest.fixture(scope="module")
def labels(data: Path) -> Path:
    out = data.parent / "labels"
    done = call("label", "--data", str(data), "--out", str(out), "--workers", "0")
    assert done.code == 0, done.stderr
    assert "next: a2s stage2" in done.stdout
    return out


def test_label_finds_the_drawn_objects(scenes, labels: Path) -> None:
    index = Index.load(labels)
    assert len(index) == len(list(scenes.train.iterdir()))
    assert float(np.median(index.column("quality"))) > 0.6


def test_predict_finds_the_drawn_objects(scenes, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    done = call("predict", str(scenes.images), "--out", str(out), "--workers", "0")
    assert done.code == 0, done.stderr
    overlaps = []
    for truth in scenes.masks.iterdir():
        mask_HW = np.asarray(Image.open(out / truth.name).convert("L")) > 127
        truth_HW = np.asarray(Image.open(truth).convert("L")) > 127
        overlaps.append((mask_HW & truth_HW).sum() / (mask_HW | truth_HW).sum())
    assert np.mean(overlaps) > 0.5, overlaps


@pytest.mark.parametrize("flags", [["--init", "bundled"], ["--init", "RUN"]])
def test_stage_2_goes_on_from_a_detector(
    data: Path, labels: Path, tmp_path: Path, flags: list[str]
) -> None:
    first = tmp_path / "first"
    arguments = ["stage2", "--data", str(data), "--labels", str(labels), "--image-size", "64"]
    arguments += ["--batch-size", "4", "--loader-workers", "0", "--epochs", "1"]
    begun = call(*arguments, "--out", str(first), "--init", "bundled")
    assert begun.code == 0, begun.stderr
    assert "UNTRAINED" not in begun.stderr
    again = tmp_path / "again"
    start = [str(first) if flag == "RUN" else flag for flag in flags]
    done = call(*arguments, "--out", str(again), *start)
    assert done.code == 0, done.stderr
    # Another start is another run.
    other = call(*arguments, "--out", str(again), "--encoder.name", "mobilenet_v2")
    assert other.code == 2
    assert "init" in other.stderr


def test_weights_beside_a_start_are_refused(data: Path, labels: Path, tmp_path: Path) -> None:
    done = call(
        *("stage2", "--data", str(data), "--labels", str(labels), "--out", str(tmp_path / "out")),
        *("--init", "bundled", "--encoder.weights", "resnet50/imagenet"),
    )
    assert done.code == 2
    assert "init: brings an encoder; leave encoder.weights out" in done.stderr
