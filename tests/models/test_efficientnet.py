"""EfficientNet-Lite2 against timm's network with the same tensors, and against its padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from a2s.models.efficientnet import EfficientNetLite2, pad_as_tensorflow
from a2s.models.encoder_weights import load_encoder
from a2s.models.encoders import build_encoder

timm = pytest.importorskip("timm")


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """Timm's network with tensors that are not their initial values, in no simple pattern."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite2", num_classes=1000).eval()
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "running_var" in name:
                value.uniform_(0.5, 2)
            elif "running_mean" in name or (value.ndim == 1 and value.is_floating_point()):
                value.add_(torch.randn_like(value), alpha=0.1)
    return network


def test_timms_file_gives_timms_features(theirs: torch.nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "lite2.safetensors"
    save_file(theirs.state_dict(), file)
    ours = load_encoder("efficientnet_lite2", str(file)).eval()
    image_B3SS = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        maps = theirs.forward_intermediates(image_B3SS, intermediates_only=True)
        for found, expected in zip(ours(image_B3SS), maps, strict=True):
            torch.testing.assert_close(found, expected)
    config = timm.get_pretrained_cfg("tf_efficientnet_lite2")
    assert (ours.mean, ours.std) == (config.mean, config.std)


def test_any_size_gives_taps_of_the_rounded_up_size() -> None:
    encoder = build_encoder("efficientnet_lite2").eval()
    for height, width in ((33, 65), (1, 40)):
        with torch.no_grad():
            taps = encoder(torch.randn(1, 3, height, width))
        for tap, stride, channels in zip(taps, encoder.strides, encoder.channels, strict=True):
            assert tap.shape == (1, channels, -(-height // stride), -(-width // stride))


def test_padding_is_larger_at_the_end() -> None:
    for kernel, before, after in ((3, 0, 2), (5, 1, 3)):
        padded = pad_as_tensorflow(torch.ones(1, 1, 8, 8), kernel)[0, 0]
        (inside,) = torch.nonzero(padded[4]).T
        assert (int(inside[0]), len(padded) - 1 - int(inside[-1])) == (before, after)


def test_its_number_of_parameters() -> None:
    assert sum(x.numel() for x in EfficientNetLite2().parameters()) == 4_357_952
