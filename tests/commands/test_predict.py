"""`a2s predict` on real files: exact outputs, odd images, damage, resuming."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.data.images import resize_rgb
from a2s.data.shards import ShardWriter
from a2s.data.transforms import normalise
from a2s.errors import CheckpointError, ConfigError
from a2s.evaluation.pictures.foreground import foreground_colours
from a2s.models.activation_net import ActivationNet
from a2s.models.blocks import upsample
from a2s.models.boundary import sign
from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder
from a2s.models.predict import Logits, to_map

SIDE = 64
BOOK = {
    "written.txt",
    "resolved.json",
    ".lock",
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "failures.jsonl",
}


def photograph(height: int, width: int, *, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (height, width, 3), dtype=np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (220, 160, 40)
    return Image.fromarray(pixels)


def save(network: Detector | ActivationNet, path: Path) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(
        tensors, path, {**network.spec(), "image_size": str(SIDE), "resize_filter": "bilinear"}
    )
    return path


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.manual_seed(0)
    network = Detector(build_encoder("mobilenet_v2"), width=32)
    network.eval()
    return network


@pytest.fixture(scope="module")
def model(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(detector, tmp_path_factory.mktemp("model") / "detector.safetensors")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep er").mkdir(parents=True)
    photograph(40, 60).save(folder / "plain.png")
    photograph(90, 30).save(folder / "deep er" / "naïve.v2.jpg")
    photograph(1, 1).save(folder / "pixel.png")
    photograph(1, 33).save(folder / "line.bmp")
    Image.new("RGB", (20, 30)).save(folder / "black.webp", lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    photograph(40, 60).save(folder / "turned.jpg", exif=turned.tobytes())
    return folder


def run(model: Path, *sources: Path, out: Path, **settings: Any) -> int:
    config = PredictConfig(model=model, images=tuple(map(str, sources)), out=out, **settings)
    return predict.run(config)


def files(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found - BOOK


SIZES = {
    "plain.png": (60, 40),
    "deep er/naïve.v2.png": (30, 90),
    "pixel.png": (1, 1),
    "line.png": (33, 1),
    "black.png": (20, 30),
    "turned.png": (40, 60),
}


def test_a_map_for_every_image_at_its_own_size(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(model, images, out=out) == 0
    assert files(out) == set(SIZES)
    for name, size in SIZES.items():
        with Image.open(out / name) as image:
            assert (image.mode, image.size) == ("L", size), name
    assert (out / "failures.jsonl").read_text() == ""
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"next: a2s evaluate --pred {out} --truth DIR --out scores/out"


def test_maps_are_the_network_s_answer(
    detector: Detector, model: Path, images: Path, tmp_path: Path
) -> None:
    run(model, images, out=tmp_path / "out")
    pixels = np.array(Image.open(images / "plain.png"))
    small = torch.from_numpy(resize_rgb(pixels, height=SIDE, width=SIDE)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(
            detector(normalise(small)), size=(40, 60), mode="bilinear", align_corners=False
        )
    expected = logits.sigmoid()[0, 0].numpy() * 255
    written = np.array(Image.open(tmp_path / "out" / "plain.png"), dtype=np.float64)
    assert np.abs(written - expected).max() < 0.51
    assert np.ptp(written) > 0


def test_stage_1_maps_are_signed(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = ActivationNet(build_encoder("mobilenet_v2"), fusion_stride=4, width=32).eval()
    save(network, tmp_path / "activation.safetensors")
    run(tmp_path / "activation.safetensors", images / "plain.png", out=tmp_path / "out")
    pixels = np.array(Image.open(images / "plain.png"))
    small = torch.from_numpy(resize_rgb(pixels, height=SIDE, width=SIDE)).permute(2, 0, 1)[None]
    with torch.no_grad():
        theta = network(normalise(small)).theta
        expected = upsample(theta * sign(theta), (40, 60)).sigmoid()[0, 0]
    written = np.array(Image.open(tmp_path / "out" / "plain.png"), dtype=np.float64)
    assert np.abs(written - expected.numpy() * 255).max() < 0.51


def test_cutouts_and_overlays(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(model, images, out=out, cutout=True, overlay=True) == 0
    stems = [name.removesuffix(".png") for name in SIZES]
    suffixes = (".png", ".cutout.png", ".overlay.jpg")
    assert files(out) == {stem + suffix for stem in stems for suffix in suffixes}
    source = np.array(Image.open(images / "plain.png"))
    saliency = np.array(Image.open(out / "plain.png"))
    rgba = np.array(Image.open(out / "plain.cutout.png"))
    assert rgba.shape == (40, 60, 4)
    np.testing.assert_array_equal(rgba[..., 3], saliency)
    expected = foreground_colours(source, saliency)
    np.testing.assert_array_equal(rgba[saliency > 0][:, :3], expected[saliency > 0])
    with Image.open(out / "turned.overlay.jpg") as image:
        assert (image.mode, image.size) == ("RGB", (40, 60))


def test_damaged_and_repeated_images_are_listed_and_the_rest_done(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "empty.jpg").write_bytes(b"")
    (images / "cut.png").write_bytes((images / "plain.png").read_bytes()[:200])
    photograph(10, 10).save(images / "plain.tif")
    out = tmp_path / "out"
    assert run(model, images, out=out) == 3
    assert files(out) == set(SIZES)
    lines = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    reasons = {Path(line["path"]).name: line["reason"] for line in lines}
    assert reasons["empty.jpg"] == "empty"
    assert reasons["cut.png"] in {"truncated", "damaged"}
    assert reasons["plain.tif"] == "duplicate_key"
    capsys.readouterr()
    assert run(model, images, out=out, max_failure_rate=0.5) == 0
    assert "(maps; 0 new)" in capsys.readouterr().out
    # Mended, it is the only one that the same command has left to do.
    photograph(8, 8).save(images / "empty.jpg")
    assert run(model, images, out=out) == 3
    assert files(out) == {*SIZES, "empty.png"}


def test_a_name_the_file_system_cannot_hold_is_a_failure(model: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photograph(6, 6).save(buffer, "PNG")
    (tmp_path / "data").mkdir()
    with ShardWriter(tmp_path / "data") as writer:
        writer.add("n" * 300, {"png": buffer.getvalue()})
        writer.add("good%20one", {"png": buffer.getvalue()})
    assert run(model, tmp_path / "data", out=tmp_path / "out") == 3
    assert files(tmp_path / "out") == {"good one.png"}
    assert "unwritable_name" in (tmp_path / "out" / "failures.jsonl").read_text()


def test_a_name_reserved_for_cutouts_is_refused_with_cutouts(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photograph(6, 6).save(tmp_path / "in" / "x.png")
    photograph(6, 6).save(tmp_path / "in" / "x.cutout.png")
    assert run(model, tmp_path / "in", out=tmp_path / "with", cutout=True) == 3
    assert files(tmp_path / "with") == {"x.png", "x.cutout.png"}
    with Image.open(tmp_path / "with" / "x.cutout.png") as image:
        assert image.mode == "RGBA"
    assert run(model, tmp_path / "in", out=tmp_path / "without") == 0


def test_again_does_only_what_is_new_or_changed(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(model, images, out=out)
    before = {name: (out / name).stat().st_mtime_ns for name in SIZES}
    photograph(12, 12).save(images / "new.png")
    photograph(22, 44).save(images / "plain.png")
    capsys.readouterr()
    run(model, images, out=out)
    assert "7 images" in capsys.readouterr().out
    changed = {name for name in SIZES if (out / name).stat().st_mtime_ns != before[name]}
    assert changed == {"plain.png"}
    with Image.open(out / "plain.png") as image:
        assert image.size == (44, 22)
    assert (out / "new.png").exists()


def test_done_is_said_without_torch(model: Path, images: Path, tmp_path: Path) -> None:
    arguments = ["predict", str(images), "--model", str(model), "--out", str(tmp_path / "out")]
    run(model, images, out=tmp_path / "out")
    code = (
        "import sys; from a2s.__main__ import run\n"
        f"assert run({arguments!r}) == 0\n"
        "assert not {'torch', 'ray', 'cv2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "done already" in done.stdout


def test_other_settings_or_another_model_are_refused(
    model: Path, images: Path, tmp_path: Path
) -> None:
    run(model, images / "plain.png", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="refine"):
        run(model, images / "plain.png", out=tmp_path / "out", refine=True)
    torch.manual_seed(5)
    other = save(Detector(build_encoder("mobilenet_v2"), width=32), tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match="model_sha256"):
        run(other, images / "plain.png", out=tmp_path / "out")


def test_a_file_that_is_no_model(images: Path, tmp_path: Path) -> None:
    (tmp_path / "no.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="safetensors"):
        run(tmp_path / "no.safetensors", images, out=tmp_path / "out")


@pytest.mark.slow
def test_workers_of_ray_write_the_same_maps(model: Path, images: Path, tmp_path: Path) -> None:
    assert run(model, images, out=tmp_path / "here", batch_size=2) == 0
    assert run(model, images, out=tmp_path / "ray", batch_size=2, workers=2) == 0
    assert files(tmp_path / "ray") == set(SIZES)
    for name in SIZES:
        here, there = (np.array(Image.open(tmp_path / k / name), int) for k in ("here", "ray"))
        assert np.abs(here - there).max() <= 1, name


def test_extreme_logits_neither_overflow_nor_wrap() -> None:
    values = np.array([[-1e4, 0.0, 1e4]], dtype=np.float32)
    np.testing.assert_array_equal(to_map(Logits(values, height=1, width=3)), [[0, 128, 255]])
