"""The models inside the package: whole, small, and the same outputs wherever they run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from a2s.errors import CheckpointError, ConfigError, WeightsError
from a2s.models import bundled
from a2s.models.encoder_weights import load_encoder
from a2s.models.inference import InferenceModel, load_prepared
from a2s.storage.tensors import read

GOLDEN = json.loads((Path(__file__).parent / "bundled_golden.json").read_text())
"""Mean of the logits in a grid of 4 x 4 fields, for the scene below."""


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the models' folder with one flipped bit in every file."""
    folder = tmp_path / "weights"
    shutil.copytree(bundled.FOLDER, folder)
    for file in folder.glob("*.safetensors"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    monkeypatch.setattr(bundled, "FOLDER", folder)
    bundled.bundled_file.cache_clear()
    yield folder
    bundled.bundled_file.cache_clear()


def scene(side: int) -> np.ndarray:
    """A red disc at the upper left of a meadow. Shape: [side, side, 3]."""
    row, column = np.mgrid[:side, :side] / side
    image = np.stack([60 + 40 * row, 120 + 60 * row, 50 + 30 * column], axis=2)
    image[np.hypot(row - 0.4, column - 0.35) < 0.2] = (200, 40, 40)
    return image.astype(np.uint8)


def grid(map_hw: np.ndarray) -> np.ndarray:
    side = map_hw.shape[0] // 4
    return map_hw[: 4 * side, : 4 * side].reshape(4, side, 4, side).mean((1, 3))


def test_they_are_whole_and_take_less_than_16_mb() -> None:
    files = sorted(bundled.FOLDER.iterdir())
    named = json.loads((bundled.FOLDER / bundled.CHECKSUMS).read_text())
    assert {file.name for file in files} == {*named, bundled.CHECKSUMS, "CARD.md"}
    assert sum(file.stat().st_size for file in files) <= 16_000_000
    for name in named:
        assert bundled.bundled_file(name).exists()


def test_half_precision_but_for_statistics() -> None:
    for name in json.loads((bundled.FOLDER / bundled.CHECKSUMS).read_text()):
        for key, tensor in read(bundled.bundled_file(name)).items():
            if tensor.is_floating_point() and key != "agreement_2KK":
                is_statistic = ".running_" in key
                assert tensor.dtype == (torch.float32 if is_statistic else torch.half), key
                assert bool(tensor.isfinite().all()), key


@pytest.mark.parametrize("kind", ["activation", "detector"])
def test_golden_outputs(kind: bundled.Kind) -> None:
    saved = bundled.bundled(kind)
    network = InferenceModel(load_prepared(saved, "cpu"))
    map_hw = network.maps(scene(saved.image_size)[None])[0]
    np.testing.assert_allclose(grid(map_hw), GOLDEN[kind], atol=0.02, rtol=0.002)
    # The disc stands out: the upper left quarter's inner fields, not the lower right corner.
    salient = grid(map_hw)
    assert salient[1, 1] > 0 > salient[3, 3]


@pytest.mark.parametrize("kind", ["activation", "detector"])
def test_the_encoder_is_that_of_both_networks(kind: bundled.Kind) -> None:
    encoder = load_encoder("efficientnet_lite2", "bundled")
    network = bundled.bundled(kind).load()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, network.encoder.state_dict()[name]), name
    with pytest.raises(WeightsError, match="covers"):
        load_encoder("resnet50", "bundled")


def test_a_damaged_file_is_one_line(damaged: Path) -> None:
    for kind in ("activation", "detector"):
        with pytest.raises(CheckpointError, match=r"a part of a2s, is damaged; install a2s again"):
            bundled.find_model("bundled", for_labels=kind == "activation")
    (damaged / bundled.CHECKSUMS).write_text("{}")
    bundled.bundled_file.cache_clear()
    with pytest.raises(CheckpointError, match="cannot be read"):
        bundled.find_model("bundled")


def test_what_identifies_them() -> None:
    activation, identity = bundled.find_model("bundled", for_labels=True)
    assert isinstance(activation, bundled.SavedNetwork)
    assert activation.kind == "activation"
    assert {"model_sha256", "encoder_sha256"} <= identity.keys()
    detector, identity = bundled.find_model("bundled")
    assert isinstance(detector, bundled.SavedNetwork)
    assert detector.kind == "detector"
    assert {"model_sha256", "encoder_sha256"} <= identity.keys()
    assert bundled.find_model("bundled-activation")[0] == activation


def test_training_starts_from_a_detector_only() -> None:
    from a2s.config.training import Stage2Options
    from a2s.training.setup import load_init, start_stage2

    start, parameters, _ = start_stage2(
        Stage2Options(init="bundled"), None, device=torch.device("cpu")
    )
    wanted = read(bundled.bundled_file("detector.safetensors"))
    name = next(key for key in wanted if key.startswith("decoder."))
    assert torch.equal(parameters[name].detach(), wanted[name].float())
    assert start.encoder.spec()["name"] == "efficientnet_lite2"
    with pytest.raises(CheckpointError, match="is of kind activation; give a detector"):
        load_init(bundled.bundled_file("activation.safetensors"), Stage2Options())
    with pytest.raises(ConfigError, match="was asked for"):
        load_init("bundled", Stage2Options(init="bundled", detector="conv"))


def test_the_card_names_what_users_must_know() -> None:
    card = (bundled.FOLDER / "CARD.md").read_text()
    for words in ("Apache-2.0", "MSRA-B", "research", "adaptive F", "Commit", "seed", "fail"):
        assert words in card, words
