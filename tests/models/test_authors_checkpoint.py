"""The authors' checkpoints: the same outputs, and the same tensors after conversion back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import authors_checkpoints as theirs
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from a2s.errors import CheckpointError, WeightsError
from a2s.models import authors_checkpoint
from a2s.models.activation_net import ActivationNet
from a2s.models.authors_checkpoint import from_released, to_released
from a2s.models.blocks import upsample
from a2s.models.boundary import sign
from a2s.models.detector import Detector, DetectorDecoder
from a2s.models.encoders import build_encoder
from a2s.models.heads import ActivationBlocks

State = theirs.State
SIZE = (64, 96)
KINDS = ["stage 1", "stage 2", "stage 2 without attention"]


@pytest.fixture(scope="module")
def states() -> dict[str, State]:
    return {
        "stage 1": theirs.checkpoint(1),
        "stage 2": theirs.checkpoint(2),
        "stage 2 without attention": theirs.checkpoint(2, attends=False),
    }


@pytest.fixture(scope="module")
def image_B3HW() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, *SIZE)


def assert_relative(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def their_maps(maps: tuple[Tensor, ...], size: tuple[int, int]) -> list[Tensor]:
    """Our maps with the authors' sign, which they apply to F only, before upsampling."""
    return [upsample(maps[0] * sign(maps[0]), size), *maps[1:]]


@torch.no_grad()
def test_stage1_computes_what_the_authors_compute(
    states: dict[str, State], image_B3HW: Tensor
) -> None:
    state = states["stage 1"]
    network = from_released(state, source="x").network
    taps = theirs.encoded(state, image_B3HW)
    expected = theirs.stage1_maps(state, taps, SIZE, decoder="decoder.")
    for ours, map_B1HW in zip(their_maps(network(image_B3HW), SIZE), expected, strict=True):
        assert_relative(ours, map_B1HW)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS[1:])
def test_stage2_computes_what_the_authors_compute(
    states: dict[str, State], image_B3HW: Tensor, kind: str
) -> None:
    network = from_released(states[kind], source="x").network
    taps = theirs.encoded(states[kind], image_B3HW)
    expected = theirs.stage2_logits(states[kind], taps, SIZE, decoder="decoder.")
    assert_relative(network(image_B3HW), expected)


@pytest.fixture(scope="module")
def oracle(shared: Path) -> State:
    return load_file(shared / "oracles" / "a2s_reference.safetensors")


def from_oracle(module: torch.nn.Module, oracle: State, stage: int) -> State:
    """Decoder weights of the authors' functions, under the names of a checkpoint."""
    ours = "heads.0." if stage == 1 else "decoder."
    renamed = {}
    for key in module.state_dict().keys() - {"e5_scale_C"}:
        layer, _, part = key.rpartition(".")
        renamed[key] = oracle[f"stage{stage}.{authors_checkpoint._MODULES[ours + layer]}.{part}"]
    return renamed


@torch.no_grad()
def test_the_oracle_uses_the_same_names(oracle: State) -> None:
    taps = [oracle[f"E{i}"] for i in range(1, 6)]
    scale = oracle["fc.weight"].sum(0)
    blocks = ActivationBlocks((12, 16, 20), fusion_stride=2, e5_scale_C=scale)
    blocks.load_state_dict(from_oracle(blocks, oracle, 1) | {"e5_scale_C": scale})
    maps = their_maps(blocks(*taps[2:], size=(64, 64)), (64, 64))
    with_fc = oracle | {"encoder.fc.weight": oracle["fc.weight"]}
    plain = theirs.stage1_maps(with_fc, taps, (64, 64), decoder="stage1.decoder.")
    for name, ours, again in zip(("F", "F3", "F4", "F5"), maps, plain, strict=True):
        assert_relative(ours, oracle[f"stage1.theta.{name}"])
        assert_relative(again, oracle[f"stage1.theta.{name}"])

    decoder = DetectorDecoder((64, 8, 12, 16, 20))
    decoder.load_state_dict(from_oracle(decoder, oracle, 2))
    assert_relative(decoder(tuple(taps), size=(64, 64)), oracle["stage2.logits"])
    again = theirs.stage2_logits(oracle, taps, (64, 64), decoder="stage2.decoder.")
    assert_relative(again, oracle["stage2.logits"])


def test_the_layout_is_that_of_the_authors_modules(states: dict[str, State], oracle: State) -> None:
    """Compared by the oracle's names and the parameter counts of Table VII."""
    for stage, state in ((1, states["stage 1"]), (2, states["stage 2"])):
        of_oracle = {
            key.removeprefix(f"stage{stage}.")
            for key in oracle
            if key.startswith(f"stage{stage}.decoder.")
        }
        assert {key for key in state if key.startswith("decoder.")} == of_oracle

    def count(kind: str, prefix: str = "") -> int:
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        return sum(
            value.numel()
            for name, value in states[kind].items()
            if name.startswith(prefix) and not name.endswith(statistics)
        )

    assert count("stage 1", "decoder.") == 2_192_896
    assert count("stage 2") == 28_397_864
    assert count("stage 2 without attention") == 28_250_152


@pytest.mark.parametrize("kind", KINDS)
def test_conversion_and_back_is_bit_identical(states: dict[str, State], kind: str) -> None:
    first = from_released(states[kind], source="x")
    back = to_released(first.network, first.unused)
    assert back.keys() == states[kind].keys()
    for name, value in states[kind].items():
        assert value.dtype == back[name].dtype
        assert torch.equal(value, back[name]), name
    again = from_released(back, source="x")
    assert again.network.spec() == first.network.spec()
    for name, value in first.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


@pytest.mark.parametrize("scaled", [True, False])
def test_a_network_of_ours_gets_a_classifier_with_the_same_column_sums(
    scaled: bool, image_B3HW: Tensor
) -> None:
    scale = torch.randn(2048) if scaled else None
    network = ActivationNet(build_encoder("resnet50"), fusion_stride=2, e5_scale_C=scale).eval()
    state = to_released(network, {})
    assert state.keys() == theirs.checkpoint(1).keys()
    assert torch.equal(
        state["encoder.fc.weight"].sum(0), torch.ones(2048) if scale is None else scale
    )
    back = from_released(state, source="x").network
    for ours, again in zip(network(image_B3HW), back(image_B3HW), strict=True):
        assert torch.equal(ours, again)
    taps = theirs.encoded(state, image_B3HW)
    expected = theirs.stage1_maps(state, taps, SIZE, decoder="decoder.")
    for ours, map_B1HW in zip(their_maps(network(image_B3HW), SIZE), expected, strict=True):
        assert_relative(ours, map_B1HW)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_prefixes_of_wrappers(states: dict[str, State], prefix: str) -> None:
    wrapped = {prefix + name: value for name, value in states["stage 2"].items()}
    back = to_released(from_released(wrapped, source="x").network, {})
    assert all(torch.equal(back[k], v) for k, v in states["stage 2"].items() if ".fc." not in k)


def test_counters_of_batches_may_be_absent(states: dict[str, State]) -> None:
    """Files of old torch versions lack them, and the authors' code loads such files too."""
    state = {k: v for k, v in states["stage 1"].items() if "num_batches" not in k}
    back = to_released(from_released(state, source="x").network, {})
    assert back.keys() == states["stage 1"].keys()
    assert back["encoder.bn1.num_batches_tracked"] == 0


def without(state: State, *parts: str) -> State:
    return {k: v for k, v in state.items() if not any(part in k for part in parts)}


def encoder_of(name: str) -> State:
    return {f"encoder.{k}": v for k, v in build_encoder(name).state_dict().items()}


FUSE = "decoder.local.fuse"
REFUSED: dict[str, tuple[Callable[[State, State], dict[str, object]], str]] = {
    "one missing": (
        lambda one, two: without(one, "ad4.se.conv.bias"),
        "covers 298 of the 299 tensors of the authors' stage 1; "
        r"1 missing: decoder\.ad4\.se\.conv\.bias$",
    ),
    "unused missing": (
        lambda one, two: without(one, ".se.gn"),
        r"8 missing: .*decoder\.ad2\.se\.gn\.weight",
    ),
    "classifier missing": (
        lambda one, two: without(one, "fc.weight"),
        r"1 missing: encoder\.fc\.weight$",
    ),
    "attention in one module only": (
        lambda one, two: without(two, "local.res_conv"),
        r"4 missing: decoder\.local\.res_conv1\.weight",
    ),
    "one more": (
        lambda one, two: one | {"decoder.refine.weight": torch.zeros(1)},
        r"1 unexpected: decoder\.refine\.weight$",
    ),
    "a number beside tensors": (lambda one, two: two | {"epoch": 20}, "1 unexpected: epoch$"),
    "both stages in one": (
        lambda one, two: one | {k: v for k, v in two.items() if k.startswith("decoder.")},
        "48 unexpected",
    ),
    "prefix of a part": (
        lambda one, two: {("net." if "fc" in k else "") + k: v for k, v in two.items()},
        r"2 missing: .*2 unexpected: net\.encoder\.fc\.weight",
    ),
    "shape": (
        lambda one, two: one | {"encoder.fc.weight": torch.zeros(128, 2048)},
        r"encoder\.fc\.weight float32 \[128, 2048\] instead of float32 \[1000, 2048\]$",
    ),
    "type": (
        lambda one, two: two | {f"{FUSE}.weight": two[f"{FUSE}.weight"].half()},
        rf"1 of wrong shape or type: {FUSE}\.weight float16 .* instead of float32",
    ),
    "no tensor": (
        lambda one, two: two | {f"{FUSE}.bias": 3.0},
        rf"{FUSE}\.bias float instead of float32 \[64\]$",
    ),
    "deeper encoder": (
        lambda one, two: (
            two | {f"encoder.layer3.{i}.bn1.bias": torch.zeros(256) for i in range(6, 23)}
        ),
        r"covers 315 of the 315 .*17 unexpected: encoder\.layer3\.6\.bn1\.bias.*… 7 more$",
    ),
    "other encoder": (
        lambda one, two: without(one, "encoder.") | encoder_of("mobilenet_v2"),
        r"covers 32 of the 299 .*267 missing: encoder\.conv1\..*unexpected: encoder\.features",
    ),
    "encoder alone": (
        lambda one, two: without(one, "decoder."),
        r"among its 320 names \(encoder\.conv1\.weight, .*\) is neither decoder\.fusion\.\*",
    ),
    "nothing": (lambda one, two: {}, "no checkpoint of the authors"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused(states: dict[str, State], case: str) -> None:
    change, complaint = REFUSED[case]
    with pytest.raises(WeightsError, match=complaint) as caught:
        from_released(change(states["stage 1"], states["stage 2"]), source="some.pth")
    text = str(caught.value)
    assert text.startswith("weights: some.pth ")
    assert "\n" not in text
    assert len(text) < 1500


@pytest.mark.parametrize(
    ("network", "difference"),
    [
        (lambda: Detector(build_encoder("mobilenet_v2")), "encoder.name mobilenet_v2 instead of"),
        (lambda: Detector(build_encoder("resnet50"), width=32), "width 32 instead of 64"),
        (lambda: ActivationNet(build_encoder("resnet50"), fusion_stride=4), "fusion_stride 4"),
        (lambda: torch.nn.Linear(2, 2), "no place for weight"),
    ],
)
def test_a_network_that_differs_from_theirs_is_refused(
    network: Callable[[], torch.nn.Module], difference: str
) -> None:
    with pytest.raises(
        CheckpointError, match=f"the authors' networks differ from it: {difference}"
    ):
        to_released(network(), {})
