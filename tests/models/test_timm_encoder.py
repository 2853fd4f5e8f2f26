"""Networks of timm as encoders: taps, sizes, what training and inference do with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from repository import REPO
from torch import nn

from a2s.errors import CheckpointError, ConfigError
from a2s.models.activation_net import ActivationNet
from a2s.models.build import build_from_spec
from a2s.models.detector import Detector
from a2s.models.encoder_base import Encoder, Taps
from a2s.models.encoders import build_encoder, calibrate_batchnorm, set_batchnorm
from a2s.models.prepare import folded, prepare_for_inference

timm = pytest.importorskip("timm", reason="timm is not installed (pip install 'a2s[timm]')")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.inference_mode()
def taps_of(encoder: Encoder, *size: int, seed: int = 0) -> Taps:
    generator = torch.Generator().manual_seed(seed)
    return encoder.eval()(torch.randn(1, 3, *size, generator=generator))


def assert_close(found: Taps, expected: Taps) -> None:
    for tap, other in zip(found, expected, strict=True):
        atol = 1e-4 * float(other.abs().max())
        torch.testing.assert_close(tap, other, rtol=1e-3, atol=atol)


@pytest.mark.parametrize(
    ("name", "published", "head", "channels"),
    [
        # Millions in timm's table of results, and what of it belongs to no tap.
        ("resnet50", "25.56", 2_049_000, (64, 256, 512, 1024, 2048)),
        ("convnext_tiny", "28.59", 768 * 1000 + 1000 + 2 * 768, (96, 96, 192, 384, 768)),
        (
            "tf_efficientnet_lite0",
            "4.65",
            320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000,
            (16, 24, 40, 112, 320),
        ),
        ("vit_small_patch14_dinov2", "22.06", 0, (384,) * 5),
    ],
)
def test_parameters_and_shapes(
    name: str, published: str, head: int, channels: tuple[int, ...]
) -> None:
    encoder = build_encoder(f"timm:{name}")
    assert f"{(count(encoder) + head) / 1e6:.2f}" == published
    assert encoder.channels == channels
    for size in ((64, 96), (70, 33)):
        for tap, stride, width in zip(
            taps_of(encoder, *size), encoder.strides, channels, strict=True
        ):
            assert tap.shape == (1, width, -(-size[0] // stride), -(-size[1] // stride))


def test_timms_resnet_is_the_one_that_is_built_in() -> None:
    ours, theirs = build_encoder("resnet50"), build_encoder("timm:resnet50")
    calibrate_batchnorm(ours)
    theirs.net.load_state_dict(ours.state_dict())
    for tap, other in zip(taps_of(theirs, 64, 96), taps_of(ours, 64, 96), strict=True):
        assert torch.equal(tap, other)


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_taps_are_those_of_features_only(name: str) -> None:
    encoder = build_encoder(f"timm:{name}")
    calibrate_batchnorm(encoder)
    features = timm.create_model(name, features_only=True).eval()
    features.load_state_dict(encoder.net.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for tap, other in zip(encoder.eval()(image), features(image), strict=True):
            assert torch.equal(tap, other)


def test_a_missing_fine_tap_is_the_next_one_enlarged() -> None:
    e1, e2, *_ = taps_of(build_encoder("timm:test_convnext"), 64, 64)
    assert (e1.shape[2], e2.shape[2]) == (32, 16)
    assert torch.equal(e1, nn.functional.interpolate(e2, size=(32, 32), mode="bilinear"))


def test_the_taps_of_a_vit_are_blocks_spread_over_its_depth() -> None:
    encoder = build_encoder("timm:vit_small_patch14_dinov2").eval()
    image = torch.randn(1, 3, 64, 64)
    grids, seen = [], []

    def note(block: nn.Module, given: object, tokens: torch.Tensor) -> None:
        patches = encoder.net.norm(tokens)[:, 1:]  # without the class token
        grids.append(patches.reshape(1, 5, 5, 384).permute(0, 3, 1, 2))

    encoder.net.patch_embed.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for number in (2, 4, 7, 9, 11):
        encoder.net.blocks[number].register_forward_hook(note)
    with torch.inference_mode():
        taps = encoder(image)
        # 64 px are 5 patches of 14 px when they are enlarged to 70 px.
        for tap, grid, side in zip(taps, grids, (32, 16, 8, 4, 2), strict=True):
            expected = nn.functional.interpolate(
                grid, size=(side, side), mode="bilinear", antialias=side < 5
            )
            torch.testing.assert_close(tap, expected)
    enlarged = nn.functional.interpolate(image, size=(70, 70), mode="bilinear")
    torch.testing.assert_close(seen[0], enlarged)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("levit_128s", (1, 1)),
        ("inception_v3", (33, 64)),
        ("swin_tiny_patch4_window7_224", (65, 97)),
    ],
)
def test_any_size_is_resized_to_one_that_the_network_takes(
    name: str, size: tuple[int, int]
) -> None:
    encoder = build_encoder(f"timm:{name}")
    for tap, stride in zip(taps_of(encoder, *size), encoder.strides, strict=True):
        assert tap.shape[2:] == (-(-size[0] // stride), -(-size[1] // stride))
        assert tap.isfinite().all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", r"has no network resnet5O; did you mean resnet50, "),
        ("qqqqqqqq", r"has no network qqqqqqqq; timm.list_models\(\) lists them"),
        ("resnet50.a9_in1k", r"has no a9_in1k of resnet50; published are resnet50.a1_in1k, "),
        (
            "volo_d1_224",
            r"is an encoder without five taps \(the strides of its feature maps: 8, 16\)",
        ),
    ],
)
def test_a_name_that_gives_no_encoder_says_why(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build_encoder(f"timm:{name}")
    assert len(str(caught.value).splitlines()) == 1


def test_images_that_say_nothing_are_refused() -> None:
    one_patch = build_encoder("timm:vit_tiny_patch16_224")
    with pytest.raises(ConfigError, match=r"16 px are one patch .* use --image-size 32 or more"):
        one_patch.check_side(16)
    one_patch.check_side(32)
    blocks = build_encoder("timm:halonet26t")
    with pytest.raises(ConfigError, match=r"takes no images of 320 px .* \(its own is 256\)"):
        blocks.check_side(320)
    blocks.check_side(256)
    assert blocks.training


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext", "test_vit"])
def test_training_is_not_random_and_reaches_every_parameter(name: str) -> None:
    encoder = build_encoder(f"timm:{name}").train()
    set_batchnorm(encoder, "frozen")
    assert not any(m.training for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    image = torch.randn(2, 3, 64, 64)
    once, again = encoder(image), encoder(image)
    assert all(torch.equal(tap, other) for tap, other in zip(once, again, strict=True))
    sum(tap.square().mean() for tap in once).backward()
    # DDP would wait for the gradient of an unused one.
    assert not [key for key, value in encoder.named_parameters() if value.grad is None]


def test_what_dinov3_draws_in_training_stays_off() -> None:
    encoder = build_encoder("timm:vit_small_patch16_dinov3").train()
    assert any(hasattr(module, "aug_active") for module in encoder.modules())
    assert not any(m.training for m in encoder.modules() if hasattr(m, "aug_active"))


def test_calibration_is_for_batchnorm_only() -> None:
    with_norms, without = build_encoder("timm:test_efficientnet"), build_encoder("timm:test_vit")
    state = {key: value.clone() for key, value in without.state_dict().items()}
    before = torch.get_rng_state()
    calibrate_batchnorm(without)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in without.state_dict().items())
    calibrate_batchnorm(with_norms)
    norms = [m for m in with_norms.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(torch.equal(m.running_var, torch.ones_like(m.running_var)) for m in norms)


@pytest.mark.parametrize(
    ("name", "norms_left"),
    [
        ("tf_efficientnet_lite0", 0),  # padding "SAME", BatchNorm with activation
        ("resnet10t", 1),
        ("ghostnet_050", None),  # registers layers in another order: nothing is folded
        ("convnext_tiny", 0),
        ("vit_tiny_patch16_224", 0),
    ],
)
def test_prepared_for_inference_it_is_the_same_function(name: str, norms_left: int | None) -> None:
    encoder = build_encoder(f"timm:{name}")
    calibrate_batchnorm(encoder)
    network = Detector(encoder).eval()
    expected = taps_of(encoder, 65, 96)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    prepare_for_inference(network, "cpu")
    assert_close(taps_of(network.encoder, 65, 96), expected)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in network.encoder.modules())
    assert left == (norms if norms_left is None else norms_left)
    kinds = {type(module).__name__ for module in network.encoder.modules()}
    assert "_OneDnnConv2d" in kinds
    assert ("Conv2dSame" in kinds) == name.startswith("tf_")


class Crossed(Encoder):
    """Its BatchNorm is registered behind a convolution, and normalises another one."""

    name = "crossed"
    channels = (4,) * 5
    registers_in_order = False

    def __init__(self) -> None:
        super().__init__(variant="crossed")
        self.first, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(3, 4, 1)

    def forward(self, image: torch.Tensor) -> Taps:
        e1, e2, e3, e4, e5 = (nn.functional.avg_pool2d(image, stride) for stride in self.strides)
        return self.first(e1), self.norm(self.second(e2)), e3, e4, e5


def test_folding_that_changes_the_function_is_undone() -> None:
    encoder = Crossed()
    calibrate_batchnorm(encoder)
    expected = taps_of(encoder, 64, 64)
    assert folded(encoder) is encoder
    assert all(map(torch.equal, taps_of(encoder, 64, 64), expected))
    Crossed.registers_in_order = True  # it would have been wrong
    assert not torch.allclose(taps_of(folded(encoder), 64, 64)[0], expected[0], atol=1e-2)


@pytest.mark.parametrize("kind", [ActivationNet, Detector])
def test_a_spec_rebuilds_network_and_normalisation(kind: type) -> None:
    encoder = build_encoder("timm:test_vit")
    net = kind(encoder, fusion_stride=4) if kind is ActivationNet else kind(encoder)
    spec = net.spec()
    assert spec["encoder.name"] == "timm:test_vit"
    assert spec["encoder.mean"] == spec["encoder.std"] == "0.5,0.5,0.5"
    other = build_from_spec({**spec, "encoder.mean": "0.1,0.2,0.3"})
    assert (other.encoder.mean, other.encoder.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    other.load_state_dict(net.state_dict())
    for bad in ("0.5,0.5", "a,b,c", ""):
        with pytest.raises(CheckpointError, match=r"encoder\.mean"):
            build_from_spec({**spec, "encoder.mean": bad})
    with pytest.raises(CheckpointError, match=r"those of encoder\.std above 0"):
        build_from_spec({**spec, "encoder.std": "0.5,0,0.5"})
    with pytest.raises(ConfigError, match="has no network test_vitt; did you mean test_vit"):
        build_from_spec({**spec, "encoder.name": "timm:test_vitt"})


def test_images_are_normalised_as_the_tag_of_the_name_says() -> None:
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    assert build_encoder("timm:test_vit").normalise(white).flatten().tolist() == [1, 1, 1]
    clip = build_encoder("timm:vit_tiny_patch16_224.augreg_in21k")
    assert clip.mean == (0.5, 0.5, 0.5)
    imagenet = build_encoder("timm:resnet10t").normalise(white)
    assert torch.equal(imagenet, build_encoder("mobilenet_v2").normalise(white))


def test_only_encoders_normalise() -> None:
    """Every consumer asks the encoder, which knows mean and deviation."""
    pattern = r"from a2s\.data\.transforms import [^\n]*\bnormalise\b"
    sources = [*(REPO / "a2s").rglob("*.py"), *(REPO / "examples").glob("*.py")]
    users = [path for path in sources if re.search(pattern, path.read_text("utf-8"))]
    assert users == [Path(REPO / "a2s" / "models" / "encoder_base.py")]
