"""Weights of timm's networks: files with timm's tensor names, and what timm publishes."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from a2s.errors import ConfigError, WeightsError
from a2s.models.encoder_weights import load_encoder
from a2s.models.encoders import build_encoder
from a2s.models.saved import SavedNetwork

timm = pytest.importorskip("timm", reason="timm is not installed (pip install 'a2s[timm]')")


def published(name: str) -> dict[str, Tensor]:
    """All tensors of timm's network, as its hub holds them, with the classifier."""
    return dict(timm.create_model(name).state_dict())


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("resnet10t", "safetensors"), ("test_vit", "pth"), ("test_convnext", "safetensors")],
)
def test_a_file_of_timms_hub_is_covered(tmp_path: Path, name: str, suffix: str) -> None:
    state, path = published(name), tmp_path / f"model.{suffix}"
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    loaded = load_encoder(f"timm:{name}", str(path)).net.state_dict()
    assert loaded
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_a_file_of_dinov2s_authors_is_covered(tmp_path: Path) -> None:
    """It has timm's names, and a token that only its training needs."""
    state = published("vit_small_patch14_dinov2") | {"mask_token": torch.zeros(1, 384)}
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    encoder = load_encoder(
        "timm:vit_small_patch14_dinov2", str(tmp_path / "dinov2_vits14_pretrain.pth")
    )
    assert torch.equal(encoder.net.pos_embed, state["pos_embed"])


def test_weights_of_another_network_are_listed(tmp_path: Path) -> None:
    save_file(published("test_convnext"), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_encoder("timm:test_vit", str(tmp_path / "model.safetensors"))
    text = str(caught.value)
    assert "model.safetensors covers 0 of the 78 tensors of timm:test_vit; 78 missing: " in text
    assert " unexpected: head.fc.bias, " in text
    assert len(text.splitlines()) == 1


def test_a_missing_tensor_is_named_and_the_classifier_is_not(tmp_path: Path) -> None:
    state = published("resnet10t")
    del state["layer2.0.conv1.weight"], state["fc.weight"]
    state["layer1.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"1 missing: layer2\.0\.conv1\.weight; 1 of wrong"
    ) as caught:
        load_encoder("timm:resnet10t", str(tmp_path / "model.safetensors"))
    assert "layer1.0.conv1.weight [64, 64, 1, 1] instead of [64, 64, 3, 3]" in str(caught.value)
    assert "fc" not in str(caught.value)


def test_neither_file_nor_published() -> None:
    with pytest.raises(WeightsError, match="x is neither a file nor `pretrained`, which means"):
        load_encoder("timm:resnet10t", "x")
    with pytest.raises(WeightsError, match="pretrained is neither a file nor bundled"):
        load_encoder("resnet50", "pretrained")
    with pytest.raises(WeightsError, match="are weights of resnet50, not of timm:resnet50"):
        load_encoder("timm:resnet50", "resnet50/imagenet")
    with pytest.raises(WeightsError, match=r"none of timm:efficientnet_lite2 \(nothing is publ"):
        load_encoder("timm:efficientnet_lite2", "pretrained")


def test_published_weights_come_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Timm asks the hub's client for a file; here it is one of this disk."""
    state = published("resnet10t")
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def download(repo_id: str, filename: str, **where: object) -> str:
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr(importlib.import_module("timm.models._hub"), "hf_hub_download", download)
    encoder = load_encoder("timm:resnet10t.c3_in1k", "pretrained")
    assert asked == [("timm/resnet10t.c3_in1k", "model.safetensors")]
    assert all(torch.equal(value, state[key]) for key, value in encoder.net.state_dict().items())
    said = capsys.readouterr().err
    assert "timm:resnet10t.c3_in1k from timm/resnet10t.c3_in1k; licence apache-2.0" in said


def test_without_a_network_the_message_says_how_to_get_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        load_encoder("timm:resnet10t", "pretrained")
    text = str(caught.value)
    assert text.startswith("weights: those of timm:resnet10t cannot be had (")
    assert "Get model.safetensors of timm/resnet10t.c3_in1k from the Hugging Face hub" in text
    assert "--encoder.weights FILE" in text
    assert len(text.splitlines()) == 1


def test_without_timm_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from a2s.models.activation_net import ActivationNet

    network = ActivationNet(build_encoder("timm:test_vit"), fusion_stride=4)
    metadata = {**network.spec(), "image_size": "64", "resize_filter": "bilinear"}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata)
    saved = SavedNetwork.find(tmp_path / "model.safetensors")
    assert saved.load().encoder.mean == (0.5, 0.5, 0.5)

    monkeypatch.setitem(sys.modules, "timm", None)
    for refused in (
        lambda: build_encoder("timm:test_vit"),
        lambda: load_encoder("timm:test_vit", "pretrained"),
        lambda: SavedNetwork.find(tmp_path / "model.safetensors"),
        lambda: SavedNetwork.find_for_labels(tmp_path / "model.safetensors"),
        saved.load,
    ):
        with pytest.raises(ConfigError) as caught:
            refused()
        assert str(caught.value) == "encoder: timm:test_vit needs timm; pip install 'a2s[timm]'"
