"""The detectors of Table VII through the commands: train, correct labels, resume, predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from label_shards import write_labels
from processes import pack, run_ranks
from status_folders import ask

from a2s.data.images import decode, decode_mask
from a2s.labels.store.generations import Generation
from a2s.models import saved
from a2s.storage import checkpoints


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = pack(scenes.train, tmp_path_factory.mktemp("detectors") / "data")
    write_labels(data, data.parent / "labels")
    return data


def arguments(data: Path, out: Path, *extra: str) -> list[str]:
    flags = "--encoder.name mobilenet_v2 --image-size 64 --batch-size 4 --loader-workers 0"
    flags += " --epochs 3 --warm-epochs 1 --log-every 1 --commit-every 1 --crops 0"
    labels = str(data.parent / "labels")
    return [
        *("stage2", "--data", str(data), "--labels", labels, "--out", str(out)),
        *(*flags.split(), *extra),
    ]


@pytest.mark.parametrize("detector", [pytest.param("conv", marks=pytest.mark.slow), "minet"])
def test_a_detector_trains_and_predicts(
    scenes, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], detector: str
) -> None:
    out = tmp_path / "s2"
    (done,) = run_ranks(arguments(data, out, "--detector", detector), world=1)
    assert done.code == 0, done.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 6
    parts = ("bce", "cel") if detector == "minet" else ("bce", "ssim", "iou")
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[part] for part in parts), abs=5e-6)
    assert min(line["loss"] for line in lines[2:]) < lines[0]["loss"]
    generation = Generation.load(out / "labels", 2)
    assert all(np.unique(generation.read_u16(row)).size > 100 for row in range(8)), "rectified"
    _, metadata = saved.load_model(out)
    assert metadata["detector"] == detector
    status = ask(out, capsys)
    assert (status["command"], status["state"]) == ("stage2", "finished")
    maps = tmp_path / "maps"
    command = ["predict", str(scenes.images), "--model", str(out), "--out", str(maps)]
    (done,) = run_ranks([*command, "--workers", "0"], world=1)
    assert done.code == 0, done.stderr
    images = list(scenes.images.iterdir())
    assert len(images) == 4
    for image in images:
        map_HW = decode_mask((maps / f"{image.stem}.png").read_bytes())
        assert map_HW.shape == decode(image.read_bytes()).shape[:2]


@pytest.mark.slow
def test_minet_resumes_with_its_statistics(data: Path, tmp_path: Path) -> None:
    """A run that lost its last commit ends as the one that did not: statistics are kept too."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for out in (whole, broken):
        (done,) = run_ranks(arguments(data, out, "--detector", "minet"), world=1)
        assert done.code == 0, done.stderr
    (broken / "commits" / "00006.json").unlink()
    (done,) = run_ranks(arguments(data, broken, "--detector", "minet"), world=1)
    assert done.code == 0, done.stderr
    assert "from epoch 3, step 2" in done.stderr
    one, two = (checkpoints.load(checkpoints.last_commit(out))[0] for out in (whole, broken))
    assert one.keys() == two.keys()
    assert any("running_var" in name for name in one)
    for name, tensor in one.items():
        assert (tensor == two[name]).all(), name


def test_another_detector_is_refused_by_its_name(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "s2"
    (done,) = run_ranks(arguments(data, out, "--detector", "conv"), world=1)
    assert done.code == 0, done.stderr
    (done,) = run_ranks(arguments(data, out), world=1)
    assert done.code == 2
    assert "detector: conv there, ram now" in done.stderr


@pytest.mark.parametrize(
    "extra", [("--detector", "minet"), ("--batchnorm", "train", "--image-size", "32")]
)
def test_one_image_of_one_pixel_has_no_statistics(
    data: Path, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    (done,) = run_ranks(arguments(data, tmp_path / "s2", "--batch-size", "1", *extra), world=1)
    assert done.code == 2
    assert "give every rank two images or more" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
