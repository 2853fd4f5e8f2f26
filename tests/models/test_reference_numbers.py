"""Both networks, both losses and the label update compared with outputs of the authors' code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from authors import STAGE1_MODULES, STAGE2_MODULES, load
from safetensors.torch import load_file
from torch import Tensor

from a2s.labels.correction.online import rectify
from a2s.models.blocks import upsample
from a2s.models.boundary import sign
from a2s.models.detector import DetectorDecoder
from a2s.models.heads import ActivationBlocks, ActivationMaps
from a2s.training.losses import adb_loss, adb_terms, binarise, detection_loss_per_image

Oracle = dict[str, Tensor]
SIZE = (64, 64)
MAP_NAMES = ("F", "F3", "F4", "F5")


@pytest.fixture(scope="module")
def oracle(shared: Path) -> Oracle:
    return load_file(shared / "oracles" / "a2s_reference.safetensors")


@pytest.fixture(scope="module")
def expected(shared: Path) -> dict[str, float]:
    numbers: dict[str, float] = json.loads(
        (shared / "oracles" / "a2s_reference.json").read_text("utf-8")
    )
    return numbers


def assert_relative(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.fixture(scope="module")
def maps(oracle: Oracle) -> ActivationMaps:
    scale = oracle["fc.weight"].sum(0)
    blocks = ActivationBlocks((12, 16, 20), fusion_stride=2, e5_scale_C=scale)
    load(blocks, oracle, STAGE1_MODULES, e5_scale_C=scale)
    with torch.no_grad():
        found = blocks(oracle["E3"], oracle["E4"], oracle["E5"], size=SIZE)
    assert isinstance(found, ActivationMaps)
    return found


def test_activation_maps(maps: ActivationMaps, oracle: Oracle) -> None:
    # The authors' F already includes the sign, computed before upsampling; F3..F5 do not.
    signed = upsample(maps.theta * sign(maps.theta), SIZE)
    for name, ours in zip(MAP_NAMES, (signed, *maps[1:]), strict=True):
        assert_relative(ours, oracle[f"stage1.theta.{name}"], 1e-5)


def test_the_sign_matters_here(maps: ActivationMaps) -> None:
    assert sorted(sign(maps.theta).flatten().tolist()) == [-1, 1]


@pytest.mark.parametrize("flip", [1, -1])
def test_stage1_loss(
    maps: ActivationMaps, oracle: Oracle, expected: dict[str, float], flip: int
) -> None:
    thetas = (upsample(maps.theta, SIZE) * flip, *maps[1:])
    terms = [
        adb_terms(theta, oracle[f"stage1.keep.{name}"], alpha=0.1)
        for name, theta in zip(MAP_NAMES, thetas, strict=True)
    ]
    columns = (torch.stack(column) for column in zip(*terms, strict=True))
    loss = adb_loss(*columns, torch.tensor([1, 0.1, 0.3, 0.5]))
    assert loss.item() == pytest.approx(expected["stage1.loss"], abs=1e-6)


def test_detector_logits(oracle: Oracle) -> None:
    decoder = DetectorDecoder((64, 8, 12, 16, 20))
    load(decoder, oracle, STAGE2_MODULES)
    with torch.no_grad():
        logits = decoder(tuple(oracle[f"E{i}"] for i in range(1, 6)), size=SIZE)
    assert_relative(logits, oracle["stage2.logits"], 1e-5)


def test_stage2_loss(oracle: Oracle, expected: dict[str, float]) -> None:
    terms = detection_loss_per_image(oracle["stage2.logits"], binarise(oracle["stage2.label"]))
    for name, ours in {
        "bce": terms.bce_B,
        "ssim": terms.ssim_B,
        "iou": terms.iou_B,
        "loss": torch.stack(terms).sum(0),
    }.items():
        assert ours.mean().item() == pytest.approx(expected[f"stage2.{name}"], abs=1e-6)


def test_label_update_is_exact(oracle: Oracle) -> None:
    updated = rectify(oracle["stage2.label"], oracle["stage2.logits"].sigmoid(), 0.4)
    assert torch.equal(updated, oracle["stage2.olr_next"])
