"""Trained BatchNorm on real gloo ranks: gradients are those of the whole batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from label_shards import write_labels
from PIL import Image
from processes import pack, run_ranks
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture in eight files, its own mirror image, with eight labels.

    Every rank has the same statistics then, and nothing in common but gradients.
    """
    root = tmp_path_factory.mktemp("batchnorm")
    (root / "images").mkdir()
    left_HW3 = np.random.default_rng(0).integers(0, 255, (64, 32, 3), np.uint8)
    image = Image.fromarray(np.concatenate([left_HW3, left_HW3[:, ::-1]], axis=1))
    for number in range(8):
        # Files that are all the same are refused.
        image.save(root / "images" / f"{number}.png", compress_level=number + 1)
    data = pack(root / "images", root / "data")
    write_labels(data, root / "labels")
    return data


@pytest.mark.parametrize(
    ("flags", "tolerance"), [(("--detector", "minet"), 0.02), (("--batchnorm", "train"), 0.4)]
)
def test_gradients_are_summed_over_ranks(
    data: Path, tmp_path: Path, flags: tuple[str, ...], tolerance: float
) -> None:
    """The gradients of one rank's images alone are off by their own length."""
    momenta = []
    for world in (1, 2):
        out = tmp_path / f"out{world}"
        command = ["stage2", "--data", str(data), "--labels", str(data.parent / "labels")]
        command += ["--out", str(out), "--encoder.name", "mobilenet_v2", "--image-size", "64"]
        command += ["--batch-size", "4", "--epochs", "1", "--lr", "0", "--weight-decay", "0"]
        # The same picture, not eight windows of it.
        command += ["--crops", "0"]
        done = run_ranks([*command, "--loader-workers", "0", *flags], world=world)
        assert [rank.code for rank in done] == [0] * world, [rank.stderr for rank in done]
        momenta.append(load_file(out / "checkpoints" / "00001" / "optimizer.safetensors"))
    one, two = momenta
    assert one.keys() == two.keys()
    # Fifty BatchNorms of an untrained encoder blow last bits up to tenths of its gradients.
    names = [name for name in one if "decoder" in name]
    expected, found = (torch.cat([m[name].flatten() for name in names]) for m in momenta)
    assert expected.norm() > 1e-2, "no gradient, nothing compared"
    assert (found - expected).norm() <= tolerance * expected.norm()
