"""Networks as labels and predictions use them: BatchNorm folded, convolutions by oneDNN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from a2s.labels.making import chunk
from a2s.models import predict
from a2s.models.activation_net import ActivationNet
from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.inference import fold_batchnorm, use_onednn


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_folded_batchnorm_is_the_same_function(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name)
    calibrate_batchnorm(encoder)
    encoder.eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = encoder(image)
        fold_batchnorm(encoder)
        assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
        folded = encoder(image)
        use_onednn(encoder)
        assert not [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
        for taps in (folded, encoder(image)):
            for found, tap in zip(taps, expected, strict=True):
                scale = float(tap.abs().max())
                torch.testing.assert_close(found, tap, rtol=1e-3, atol=1e-4 * scale)


def test_layouts_are_kept_and_do_not_change_what_comes_out() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    fold_batchnorm(encoder.eval())
    use_onednn(encoder)
    layouts = [module for module in encoder.modules() if hasattr(module, "laid_out")]
    images = [torch.randn(1, 3, 16 * side, 24 * side) for side in range(1, 9)]
    with torch.inference_mode():
        expected = [encoder(image) for image in images]
        again = [encoder(image) for image in images]
        kept = [dict(module.laid_out) for module in layouts]
        encoder(images[-1])
    for taps, before in zip(again, expected, strict=True):
        assert all(torch.equal(tap, other) for tap, other in zip(taps, before, strict=True))
    assert layouts
    for module, before in zip(layouts, kept, strict=True):
        assert 1 <= len(module.laid_out) <= 4
        assert len(module.layout_of) <= len(images)
        assert all(module.laid_out[layout] is weight for layout, weight in before.items())


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_prepared_for_labels_it_makes_the_same_maps(stride: int) -> None:
    torch.manual_seed(stride)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    net = ActivationNet(encoder, fusion_stride=stride).eval()
    images = [torch.randn(1, 3, *size) for size in ((64, 96), (65, 33), (1, 1), (160, 160))]
    with torch.no_grad():
        expected = [net(image) for image in images]
    fold_batchnorm(net.encoder)
    use_onednn(net)
    with torch.inference_mode():
        for image, maps in zip(images, expected, strict=True):
            for found, theta in zip(net(image), maps, strict=True):
                torch.testing.assert_close(found, theta, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("load", ["label", "hma", "predict"])
def test_what_a_training_set_does_not_change_what_inference_gives(
    load: str, tmp_path: Path
) -> None:
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = flags[0].allow_tf32, flags[0].benchmark, flags[1].allow_tf32
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    network = Detector(encoder) if load != "label" else ActivationNet(encoder, fusion_stride=8)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, {**network.spec(), "image_size": "64", "resize_filter": "bilinear"})
    try:
        flags[0].allow_tf32 = flags[0].benchmark = flags[1].allow_tf32 = True
        if load == "label":
            chunk.load_network(path)
        elif load == "hma":
            chunk.load_network(path, "cpu")
        else:
            predict.load_step(path, 10**6)
        after = flags[0].allow_tf32, flags[0].benchmark, flags[1].allow_tf32
        assert after == (False, False, False)
    finally:
        flags[0].allow_tf32, flags[0].benchmark, flags[1].allow_tf32 = before
