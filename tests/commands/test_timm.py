"""Encoders of timm through the commands, one family after the other, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import call, environment, pack
from repository import REPO

from a2s.data.images import decode, decode_mask, resize_rgb
from a2s.data.index import Index
from a2s.labels.store.generations import Generation
from a2s.models import saved
from a2s.models.boundary import sign
from a2s.models.encoders import MobileNetV2
from a2s.storage.tensors import read_metadata

pytest.importorskip("timm", reason="timm is not installed (pip install 'a2s[timm]')")

SIDE = 64
FLAGS = f"--image-size {SIDE} --batch-size 4 --loader-workers 0 --epochs 1".split()


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("timm") / "data")


def succeed(*arguments: object) -> str:
    done = call(*arguments)
    assert done.code == 0, done.stderr
    return done.stdout


def normalised(image_HW3: np.ndarray, mean: float, std: float) -> torch.Tensor:
    small_SS3 = resize_rgb(image_HW3, height=SIDE, width=SIDE)
    return (torch.from_numpy(small_SS3).permute(2, 0, 1)[None] / 255 - mean) / std


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_every_command_takes_it(scenes, data: Path, tmp_path: Path, name: str) -> None:
    encoder = ("--encoder.name", f"timm:{name}")
    stage1, labels, stage2 = tmp_path / "s1", tmp_path / "labels", tmp_path / "s2"
    cache = ("--cache-dir", tmp_path / "cache", "--cache-dtype", "float32")
    succeed("stage1", "--data", data, "--out", stage1, *encoder, *FLAGS, *cache)
    assert "is done" in succeed("stage1", "--data", data, "--out", stage1, *encoder, *FLAGS, *cache)
    succeed("label", "--model", stage1, "--data", data, "--out", labels, "--workers", "0")
    # A reference model of the same file, not prepared for inference.
    network, metadata = saved.load_model(stage1)
    assert metadata["encoder.name"] == f"timm:{name}"
    is_vit = name.startswith("vit")
    own_mean = [0.5] * 3 if is_vit else [0.485, 0.456, 0.406]
    assert [float(value) for value in metadata["encoder.mean"].split(",")] == own_mean

    if is_vit:
        _check_cache(tmp_path / "cache", Index.load(data), network)
        maps = tmp_path / "maps"
        succeed("predict", scenes.images, "--model", stage1, "--out", maps, "--workers", "0")
        for path in scenes.images.iterdir():
            image_HW3 = decode(path.read_bytes())
            with torch.no_grad():
                theta = network(normalised(image_HW3, 0.5, 0.5)).theta
            logits = torch.nn.functional.interpolate(
                theta * sign(theta, tie=1), size=image_HW3.shape[:2], mode="bilinear"
            )
            found = decode_mask((maps / f"{path.stem}.png").read_bytes())
            assert np.abs(found - 255 * logits.sigmoid()[0, 0].numpy()).max() <= 1

    command = ("stage2", "--data", data, "--labels", labels, "--out", stage2)
    succeed(*command, *encoder, *FLAGS, "--warm-epochs", "0", "--crops", "0", "--log-every", "1")
    lines = [json.loads(line) for line in (stage2 / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    generation = Generation.load(stage2 / "labels", 1)
    assert all(np.unique(generation.read_u16(row)).size > 100 for row in range(8)), "rectified"
    masks = tmp_path / "masks"
    succeed("predict", scenes.images, "--model", stage2, "--out", masks, "--workers", "0")
    assert len(list(masks.glob("*.png"))) == 4

    for model in (stage1, stage2):
        done = call("export-weights", model, "--out", tmp_path / "theirs.safetensors")
        assert done.code == 2
        assert f"encoder.name timm:{name} instead of resnet50" in done.stderr
    assert not (tmp_path / "theirs.safetensors").exists()


def _check_cache(folder: Path, index: Index, network: torch.nn.Module) -> None:
    """The cache holds the features of images that the encoder's own mean and deviation made."""
    (path,) = folder.glob("features-*.bin")
    content = path.read_bytes()
    header = json.loads(content[:4096])
    length = sum(int(np.prod(shape)) for shape in header["shapes"])
    start = 4096 + -(-8 * header["capacity"] // 4096) * 4096
    marks = np.frombuffer(content, np.uint64, header["capacity"], 4096)
    assert (marks > 0).sum() == len(index), "one epoch sees each image once, mirrored or not"
    for slot in np.flatnonzero(marks).tolist():
        image_13SS = normalised(decode(index.read(slot // 2)), 0.5, 0.5)
        with torch.no_grad():
            _, _, *taps = network.encoder(image_13SS.flip(-1) if slot % 2 else image_13SS)
        expected = torch.cat([tap.flatten() for tap in taps])
        found = np.frombuffer(content, np.float32, length, start + slot * 4 * length)
        torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-3, atol=1e-3)


def test_another_normalisation_has_another_cache(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, caches = tmp_path / "cache", []
    for number, mean in enumerate((MobileNetV2.mean, (0.5, 0.5, 0.5))):
        monkeypatch.setattr(MobileNetV2, "mean", mean)
        command = ("stage1", "--data", data, "--out", tmp_path / str(number), *FLAGS)
        succeed(*command, "--encoder.name", "mobilenet_v2", "--cache-dir", cache)
        caches.append({path.name for path in cache.iterdir()})
    assert caches[0] < caches[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--encoder.name timm:resnet5O", "has no network resnet5O; did you mean resnet50"),
        ("--encoder.name timm:nest_tiny", "timm:nest_tiny is an encoder without five taps"),
        (
            "--encoder.name timm:vit_base_patch32_224 --image-size 32",
            "images of 32 px are one patch of timm:vit_base_patch32_224, whose patches have 32 px",
        ),
        (
            "--encoder.name timm:halonet26t --image-size 320",
            "timm:halonet26t takes no images of 320 px",
        ),
        ("--encoder.name timm:resnet10t --encoder.weights gone.pth", "gone.pth is neither a file"),
    ],
)
def test_what_cannot_be_an_encoder_is_one_line(
    data: Path, tmp_path: Path, flags: str, message: str
) -> None:
    out = tmp_path / "run"
    done = call("stage1", "--data", data, "--out", out, *FLAGS, *flags.split())
    assert done.code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    # Nothing stands in the way of the corrected command.
    assert not (out / "config.yaml").exists()


def test_without_timm_the_command_ends_with_2(data: Path, tmp_path: Path) -> None:
    command = ["stage1", "--data", str(data), "--out", str(tmp_path / "run"), *FLAGS]
    command += ["--encoder.name", "timm:resnet10t"]
    code = "import sys; sys.modules['timm'] = None; from a2s.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        env=environment(),
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    expected = "a2s: encoder: timm:resnet10t needs timm; pip install 'a2s[timm]'"
    assert done.stderr.splitlines() == [expected]


def test_the_metadata_of_built_in_encoders_stays(data: Path, tmp_path: Path) -> None:
    command = ("stage1", "--data", data, "--out", tmp_path / "run", *FLAGS)
    succeed(*command, "--encoder.name", "mobilenet_v2")
    built_in = read_metadata(saved.resolve_model(tmp_path / "run"))
    assert built_in.keys() & {"encoder.name", "encoder.variant", "encoder.mean", "encoder.std"} == {
        *("encoder.name", "encoder.variant")
    }
