"""Parameter counts of the paper, sizes, frozen parts, and networks rebuilt from their spec."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from a2s.errors import CheckpointError, ConfigError
from a2s.models.activation_net import ActivationNet
from a2s.models.blocks import upsample
from a2s.models.boundary import BOUNDARIES, decide
from a2s.models.build import build_from_spec
from a2s.models.detector import DETECTORS, Detector
from a2s.models.encoder_weights import load_encoder
from a2s.models.encoders import build_encoder, calibrate_batchnorm, set_batchnorm

RESNET50 = 23_508_032
# The authors' code creates these and never uses them: the classifier and four GroupNorms.
UNUSED_CLASSIFIER, UNUSED_NORMS = 2_049_000, 512


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def mobile() -> ActivationNet:
    torch.manual_seed(0)
    return ActivationNet(build_encoder("mobilenet_v2"), fusion_stride=4)


def test_parameter_counts_of_stage1() -> None:
    net = ActivationNet(build_encoder("resnet50"), fusion_stride=2)
    assert count(net.encoder) == RESNET50
    assert count(net.heads[0]) == 2_192_384
    assert count(net.heads[0]) + UNUSED_NORMS == 2_192_896
    trained = [name for name, p in net.named_parameters() if p.requires_grad]
    assert trained
    assert all(name.startswith("heads.0.") for name in trained)


@pytest.mark.parametrize(
    ("detector", "decoder", "published", "printed"),
    [
        ("ram", 2_840_832, 28_397_864, "28.40"),
        ("conv", 2_693_120, 28_250_152, "28.25"),
        ("minet", 138_870_273, 164_427_305, "164.43"),
    ],
)
def test_parameter_counts_of_stage2(
    detector: str, decoder: int, published: int, printed: str
) -> None:
    """Table VII counts the encoder's classifier, which no detector uses."""
    net = Detector(build_encoder("resnet50"), detector=detector)
    assert count(net.decoder) == decoder
    assert count(net) + UNUSED_CLASSIFIER == published
    assert f"{published / 1e6:.2f}" == printed
    attention = [p.numel() for name, p in net.decoder.named_parameters() if "attention" in name]
    assert (len(attention), sum(attention)) == ((8, 147_712) if detector == "ram" else (0, 0))


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", [(64, 96), (65, 33), (1, 1), (1, 70)])
def test_any_size_goes_through(stride: int, size: tuple[int, int]) -> None:
    net = ActivationNet(build_encoder("mobilenet_v2"), fusion_stride=stride).eval()
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        maps = net(image)
    for theta, step in zip(maps, (stride, 8, 16, 32), strict=True):
        assert theta.shape == (2, 1, -(-size[0] // step), -(-size[1] // step))
        assert theta.isfinite().all()


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("size", [(64, 96), (65, 33), (1, 1), (1, 70)])
def test_a_detector_accepts_any_size(detector: str, size: tuple[int, int]) -> None:
    net = Detector(load_encoder("mobilenet_v2", None), detector=detector).eval()
    with torch.no_grad():
        logits = net(torch.randn(2, 3, *size))
    assert logits.shape == (2, 1, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_parameter_of_a_detector_is_used(detector: str) -> None:
    """A parameter without a gradient would stop training on several ranks."""
    net = Detector(load_encoder("mobilenet_v2", None), detector=detector)
    net(torch.randn(2, 3, 96, 64)).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None]


def test_heads_of_stored_features_equal_the_forward(mobile: ActivationNet) -> None:
    image = torch.randn(2, 3, 64, 64)
    features = mobile.encode(image)
    assert not any(e.requires_grad for e in features)
    for a, b in zip(mobile(image), mobile.maps_of(*features, size=(64, 64)), strict=True):
        assert torch.equal(a, b)


def test_fused_theta_is_the_boundary_of_fused_features(mobile: ActivationNet) -> None:
    image = torch.randn(2, 3, 64, 64)
    e3, e4, e5 = mobile.encode(image)
    blocks = mobile.heads[0]
    parts = [upsample(f, (16, 16)) for f in (blocks.se3(e3), blocks.se4(e4), blocks.se5(e5))]
    expected = decide(blocks.se0(torch.cat(parts, 1)), BOUNDARIES["adb"])
    torch.testing.assert_close(mobile(image).theta, expected, atol=1e-3, rtol=1e-4)


def test_the_frozen_encoder_never_changes(mobile: ActivationNet) -> None:
    before = {key: value.clone() for key, value in mobile.encoder.state_dict().items()}
    mobile.train()
    assert mobile.heads[0].training
    assert not any(module.training for module in mobile.encoder.modules())
    sum(theta.square().sum() for theta in mobile(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is None for p in mobile.encoder.parameters())
    assert all(p.grad is not None for p in mobile.heads[0].parameters())
    assert all(torch.equal(before[k], v) for k, v in mobile.encoder.state_dict().items())


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_lite2"])
def test_every_tap_of_an_untrained_encoder_is_alive(name: str) -> None:
    encoder = load_encoder(name, None).eval()
    with torch.no_grad():
        taps = encoder(torch.rand(2, 3, 96, 96) * 4 - 2)
    for tap, channels, stride in zip(taps, encoder.channels, encoder.strides, strict=True):
        assert tap.shape == (2, channels, 96 // stride, 96 // stride)
        assert 0.1 < tap.std() < 10


@pytest.mark.parametrize("mode", ["frozen", "train"])
def test_batchnorm_modes(mode: str) -> None:
    encoder = build_encoder("mobilenet_v2").train()
    set_batchnorm(encoder, "frozen" if mode == "frozen" else "train")
    before = {k: v.clone() for k, v in encoder.named_buffers() if "running" in k}
    encoder(torch.randn(2, 3, 64, 64))
    changed = [
        k for k, v in encoder.named_buffers() if k in before and not torch.equal(before[k], v)
    ]
    assert len(changed) == (0 if mode == "frozen" else len(before))


@pytest.mark.parametrize("name", DETECTORS)
def test_channels_last_detector_equals_the_contiguous_one(name: str) -> None:
    torch.manual_seed(0)
    detector = Detector(load_encoder("mobilenet_v2", None), detector=name).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = detector(image)
        found = detector.to(memory_format=torch.channels_last)(
            image.to(memory_format=torch.channels_last)
        )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("variant", ["torchvision", "onnx_zoo"])
@pytest.mark.parametrize("kind", ["activation", "scaled", *DETECTORS])
def test_a_network_is_rebuilt_from_its_spec(kind: str, variant: str) -> None:
    encoder = build_encoder("mobilenet_v2", variant=variant)
    scale: Tensor | None = torch.rand(1280) if kind == "scaled" else None
    net: ActivationNet | Detector
    if kind in {"activation", "scaled"}:
        net = ActivationNet(encoder, fusion_stride=8, width=16, e5_scale_C=scale)
    else:
        net = Detector(encoder, detector=kind, width=16)
    again = build_from_spec(net.spec())
    again.load_state_dict(net.state_dict())
    assert again.spec() == net.spec()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = net.eval()(image), again.eval()(image)
    pairs = [(ours, theirs)] if isinstance(ours, Tensor) else zip(ours, theirs, strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_e5_scale_acts_on_e5_only() -> None:
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    scale = torch.rand(1280)
    net = ActivationNet(encoder, fusion_stride=8, e5_scale_C=scale).eval()
    bare = ActivationNet(encoder, fusion_stride=8).eval()
    state = {k: v for k, v in net.state_dict().items() if k != "heads.0.e5_scale_C"}
    bare.load_state_dict(state)
    e3, e4, e5 = net.encode(torch.randn(1, 3, 64, 64))
    scaled = net.maps_of(e3, e4, e5, size=(64, 64))
    expected = bare.maps_of(e3, e4, e5 * scale[:, None, None], size=(64, 64))
    assert all(torch.equal(a, b) for a, b in zip(scaled, expected, strict=True))
    assert not torch.equal(scaled.theta5, bare.maps_of(e3, e4, e5, size=(64, 64)).theta5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kind", "classifier"),
        ("kind", None),
        ("encoder.name", "vgg"),
        ("encoder.variant", "mine"),
        ("fusion_stride", "3"),
        ("width", "sixty"),
        ("e5_scale", "maybe"),
        ("boundary", None),
        ("sign_tie", None),
    ],
)
def test_an_impossible_spec_is_named(mobile: ActivationNet, key: str, value: str | None) -> None:
    spec = mobile.spec()
    if value is None:
        del spec[key]
    else:
        spec[key] = value
    with pytest.raises(CheckpointError, match=key):
        build_from_spec(spec)


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"detector": "u2net"}, "u2net"), ({}, "detector")],
)
def test_an_unknown_detector_is_named(changed: dict[str, str], named: str) -> None:
    spec = Detector(build_encoder("mobilenet_v2")).spec()
    del spec["detector"]
    with pytest.raises(CheckpointError, match=named):
        build_from_spec(spec | changed)


def test_unknown_encoders_are_named() -> None:
    with pytest.raises(ConfigError, match="vgg"):
        build_encoder("vgg")
    with pytest.raises(ConfigError, match="onnx_zoo"):
        build_encoder("resnet50", variant="onnx_zoo")
