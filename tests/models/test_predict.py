"""The half of `a2s predict` that has the network: prepared for speed, it gives the same maps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from a2s.data.images import BadImage, decode, resize_rgb
from a2s.data.open_files import Address
from a2s.data.transforms import normalise
from a2s.models.activation_net import ActivationNet
from a2s.models.boundary import sign
from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.predict import Logits, Picture, new_step, to_map
from a2s.models.saved import SavedNetwork

SIDE, MAX_PIXELS = 96, 10**6


@pytest.fixture(scope="module")
def pictures(shared: Path) -> list[Picture]:
    paths = sorted((shared / "data" / "msra1000").glob("*.jpg"))[:5]
    return [Picture(path.stem, Address(os.fsencode(path)), str(path)) for path in paths]


def untrained(kind: str, encoder_name: str) -> ActivationNet | Detector:
    torch.manual_seed(0)
    encoder = build_encoder(encoder_name)
    calibrate_batchnorm(encoder)
    if kind == "activation":
        return ActivationNet(encoder, fusion_stride=4, width=32).eval()
    return Detector(encoder, detector=kind, width=32).eval()


def save(network: ActivationNet | Detector, path: Path) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(
        tensors, path, {**network.spec(), "image_size": str(SIDE), "resize_filter": "bilinear"}
    )
    return path


@pytest.mark.parametrize(
    ("kind", "encoder_name"),
    [
        *((kind, "mobilenet_v2") for kind in ("activation", "ram", "conv", "minet")),
        *((kind, "resnet50") for kind in ("activation", "ram")),
    ],
)
def test_maps_are_those_of_the_network_as_it_was_saved(
    kind: str, encoder_name: str, pictures: list[Picture], tmp_path: Path
) -> None:
    network = untrained(kind, encoder_name)
    saved = SavedNetwork.find(save(network, tmp_path / "model.safetensors"))
    answers = new_step(saved, MAX_PIXELS)(pictures[:2])
    for picture, answer in zip(pictures[:2], answers, strict=True):
        assert isinstance(answer, Logits)
        image_HW3 = decode(picture.address.read())
        small_SS3 = resize_rgb(image_HW3, height=SIDE, width=SIDE)
        with torch.no_grad():
            logits_11hw = network(normalise(torch.from_numpy(small_SS3).permute(2, 0, 1)[None]))
            if kind == "activation":
                logits_11hw = logits_11hw.theta * sign(logits_11hw.theta, tie=1)
        plain = Logits(logits_11hw[0, 0].numpy(), *image_HW3.shape[:2])
        map_HW, expected_HW = to_map(answer).astype(int), to_map(plain).astype(int)
        # An untrained MINet's maps are nearly flat: grey levels alone would say little of it.
        error = np.abs(answer.values_hw - plain.values_hw).max()
        assert error < 2e-4 * np.ptp(plain.values_hw)
        assert np.ptp(expected_HW) > 2
        assert np.abs(map_HW - expected_HW).max() <= 1
        assert (map_HW != expected_HW).mean() < 0.01


@pytest.mark.parametrize("kind", ["activation", "ram"])
def test_a_map_is_the_same_whatever_shares_its_chunk(
    kind: str, pictures: list[Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_sizes = []

    def forward(network: torch.nn.Module, image_B3SS: torch.Tensor) -> object:
        batch_sizes.append(len(image_B3SS))
        return plain_forward(network, image_B3SS)

    network_class = ActivationNet if kind == "activation" else Detector
    plain_forward = network_class.forward
    monkeypatch.setattr(network_class, "forward", forward)
    path = save(untrained(kind, "mobilenet_v2"), tmp_path / "m.safetensors")
    step = new_step(SavedNetwork.find(path), MAX_PIXELS)
    (tmp_path / "empty.jpg").touch()
    empty = Picture("empty", Address(os.fsencode(tmp_path / "empty.jpg")), "empty.jpg")
    together = step([*pictures[:2], empty, *pictures[2:]])
    assert isinstance(together.pop(2), BadImage)
    assert batch_sizes == [1] * len(pictures)
    for picture, answer in zip(pictures, together, strict=True):
        (alone,) = step([picture])
        assert isinstance(answer, Logits)
        assert isinstance(alone, Logits)
        assert (answer.height, answer.width) == (alone.height, alone.width)
        np.testing.assert_array_equal(answer.values_hw, alone.values_hw)
    assert isinstance(step([empty])[0], BadImage)
