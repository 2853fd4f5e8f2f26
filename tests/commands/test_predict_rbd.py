"""`a2s predict --model rbd`: the baseline runs through the same command as the networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.config.parse import parse
from a2s.errors import CheckpointError, ConfigError
from a2s.models.predict import Probabilities, to_map
from a2s.models.rbd import rbd

RECORDS = {
    "written.txt",
    "resolved.json",
    ".lock",
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "failures.jsonl",
}


def photograph(height: int, width: int, *, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 40, (height, width, 3), dtype=np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (220, 160, 40)
    return Image.fromarray(pixels)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    photograph(80, 120).save(folder / "plain.png")
    photograph(900, 500).save(folder / "deep" / "large.png")
    photograph(1, 33).save(folder / "line.bmp")
    photograph(60, 40).convert("L").save(folder / "grey.jpg")
    return folder


def run(images: Path, *, out: Path, model: Any = "rbd", **settings: Any) -> int:
    return predict.run(PredictConfig(model=model, images=(str(images),), out=out, **settings))


def files(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - RECORDS


def test_maps_equal_rbd(images: Path, tmp_path: Path) -> None:
    assert run(images, out=tmp_path / "out", cutout=True, overlay=True) == 0
    stems = ("plain", "deep/large", "line", "grey")
    suffixes = (".png", ".cutout.png", ".overlay.jpg")
    assert files(tmp_path / "out") == {stem + suffix for stem in stems for suffix in suffixes}
    for stem in ("plain", "deep/large"):
        pixels = np.array(Image.open(images / f"{stem}.png"))
        written = np.array(Image.open(tmp_path / "out" / f"{stem}.png"))
        np.testing.assert_array_equal(written, np.rint(rbd(pixels) * 255))
        assert written[pixels[..., 0] > 100].mean() > 200
        assert written[pixels[..., 0] < 100].mean() < 30


def test_a_second_call_does_nothing_and_failures_are_listed(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "cut.png").write_bytes((images / "plain.png").read_bytes()[:200])
    assert run(images, out=tmp_path / "out") == 3
    failure = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
    assert failure["key"] == "cut"
    (images / "cut.png").unlink()
    capsys.readouterr()
    assert run(images, out=tmp_path / "out") == 0
    assert "done already, nothing new" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_of_ray_write_the_same_maps(images: Path, tmp_path: Path) -> None:
    assert run(images, out=tmp_path / "here", batch_size=2, workers=0) == 0
    assert run(images, out=tmp_path / "ray", batch_size=2, workers=2) == 0
    assert files(tmp_path / "ray") == files(tmp_path / "here")
    for name in files(tmp_path / "here"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()


def test_it_needs_no_torch(images: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(images), "--model", "rbd", "--out", str(tmp_path / "out")]
    code = (
        "import sys; from a2s.__main__ import run\n"
        f"assert run({arguments!r}) == 0\n"
        "assert not {'torch', 'ray', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_run_folder_named_rbd_is_given_as_a_path(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rbd").mkdir()
    flags = ["images", "--out", "out", "--model"]
    assert parse("predict", [*flags, "rbd"]).model == "rbd"
    assert parse("predict", [*flags, "./rbd"]).model == Path("rbd")
    with pytest.raises(CheckpointError, match="neither"):
        predict.run(parse("predict", [*flags, "./rbd"]))


def test_maps_of_a_network_are_not_mixed_with_it(images: Path, tmp_path: Path) -> None:
    run(images, out=tmp_path / "out")
    network = tmp_path / "network.safetensors"
    save_file({"weight": np.zeros(1, np.float32)}, network, {"kind": "detector"})
    with pytest.raises(ConfigError, match="baseline"):
        run(images, out=tmp_path / "out", model=network)


def test_shares_are_enlarged_and_rounded() -> None:
    values = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    np.testing.assert_array_equal(to_map(Probabilities(values, height=1, width=3)), [[0, 128, 255]])
    assert to_map(Probabilities(values, height=7, width=50)).shape == (7, 50)
