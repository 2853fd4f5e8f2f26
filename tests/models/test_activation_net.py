"""Activation networks with all boundaries, scales and encoders: building, saving, rebuilding."""

from __future__ import annotations

import functools
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from a2s.config.training import Stage1Parity
from a2s.models.activation_net import ActivationNet, EncoderMode, random_e5_scale
from a2s.models.blocks import SEBlock, upsample
from a2s.models.boundary import BOUNDARIES, decide
from a2s.models.build import build_from_spec
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.heads import NUM_MAPS, ActivationBlocks

CHANNELS = (6, 7, 9)


def features(side: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    e3, e4, e5 = (
        torch.randn(2, channels, side // step, side // step)
        for channels, step in zip(CHANNELS, (1, 2, 4), strict=True)
    )
    return e3, e4, e5


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
def test_all_maps_are_the_boundary_of_their_features(boundary: str) -> None:
    torch.manual_seed(0)
    blocks = ActivationBlocks(CHANNELS, fusion_stride=4, boundary=boundary)
    if blocks.trainset_mean_K is not None:
        blocks.trainset_mean_K.copy_(torch.tensor([9.0, 8, 7, 6]))
    if blocks.origin_K is not None:
        nn.init.uniform_(blocks.origin_K)
    taps = features()
    maps = blocks(*taps, size=(64, 64))
    parts = [block(e) for block, e in zip((blocks.se3, blocks.se4, blocks.se5), taps, strict=True)]
    fused = blocks.se0(torch.cat([upsample(f, (16, 16)) for f in parts], 1))
    for k, (f, theta) in enumerate(zip([fused, *parts], maps, strict=True)):
        w = blocks.learned_KC
        origin_K = blocks.trainset_mean_K if blocks.origin_K is None else blocks.origin_K
        expected = decide(
            f,
            BOUNDARIES[boundary],
            learned_C=None if w is None else w[k],
            origin=None if origin_K is None else origin_K[k],
        )
        torch.testing.assert_close(theta, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("boundary", ["db2", "db3", "db4"])
def test_the_fused_map_has_the_gradients_of_its_features(boundary: str) -> None:
    """The channel weights depend on the features, so gradients flow through both."""
    torch.manual_seed(0)
    block, w = SEBlock(9, 16).double(), nn.Parameter(torch.randn(16, dtype=torch.float64))
    maps = [torch.randn(2, 3, n, n, dtype=torch.float64, requires_grad=True) for n in (8, 4, 2)]
    weigh = functools.partial(BOUNDARIES[boundary].weigh, learned_C=w)
    found = block.activation_of_upsampled(maps, size=(12, 12), weigh=weigh)
    joined = torch.cat([upsample(m, (12, 12)) for m in maps], 1)
    measure = BOUNDARIES[boundary].measure
    expected = decide(block(joined), BOUNDARIES[boundary], learned_C=w)
    pixel_weight = torch.randn_like(expected)
    leaves = [*maps, *block.parameters(), *([w] if boundary == "db4" else [])]
    pairs = [
        torch.autograd.grad((theta * pixel_weight).sum(), leaves, retain_graph=True)
        for theta in (measure(found, None), expected)
    ]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-7)


def test_initial_weights_do_not_depend_on_the_boundary() -> None:
    states = []
    for boundary in BOUNDARIES:
        torch.manual_seed(3)
        states.append(ActivationBlocks(CHANNELS, fusion_stride=8, boundary=boundary).state_dict())
    own = {"learned_KC", "trainset_mean_K"}
    assert [sorted(own & state.keys()) for state in states] == [
        ["trainset_mean_K"],
        [],
        [],
        ["learned_KC"],
        [],
        ["learned_KC"],
    ]
    for state in states:
        for name, tensor in states[4].items():
            assert torch.equal(state[name], tensor), name
    w = states[3]["learned_KC"]
    assert w.shape == (NUM_MAPS, 64)
    # A linear layer with 64 inputs is initialised uniformly between -1/8 and 1/8.
    assert 0.1 < w.abs().max() <= 0.125


def test_the_mean_over_the_training_set_follows_the_activation() -> None:
    """Theta is the activation minus the running mean, at any value of the mean."""
    torch.manual_seed(0)
    blocks = ActivationBlocks(CHANNELS, fusion_stride=4, boundary="db1")
    plain = ActivationBlocks(CHANNELS, fusion_stride=4, boundary="db1")
    plain.load_state_dict(blocks.state_dict())
    activations = []
    for step in range(1, 6):
        taps = features()
        with torch.no_grad():
            theta_K = torch.stack([theta.mean() for theta in blocks(*taps, size=(64, 64))])
            # Its means stay 0, so its maps equal the activation.
            activations.append(torch.stack([m.mean() for m in plain(*taps, size=(64, 64))]))
        blocks.update_running_mean(theta_K, share=1 / min(step, 3))
    # Three steps per epoch: a plain mean during the first, then a window of the same length.
    mean_K = torch.stack(activations[:3]).mean(0)
    for activation_K in activations[3:]:
        mean_K = mean_K + (activation_K - mean_K) / 3
    torch.testing.assert_close(blocks.trainset_mean_K, mean_K, atol=1e-5, rtol=1e-5)
    assert plain.trainset_mean_K is not None
    assert not plain.trainset_mean_K.any()


@pytest.mark.parametrize("boundary", sorted(BOUNDARIES))
@pytest.mark.parametrize("sign_tie", [0, 1])
def test_a_network_is_rebuilt_from_its_spec(boundary: str, sign_tie: int) -> None:
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    net = ActivationNet(
        encoder, fusion_stride=8, boundary=boundary, sign_tie=sign_tie, e5_scale_C=torch.rand(1280)
    )
    again = build_from_spec(net.spec())
    assert isinstance(again, ActivationNet)
    again.load_state_dict(net.state_dict())
    assert again.spec() == net.spec()
    assert again.sign_tie == sign_tie
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for ours, theirs in zip(net.eval()(image), again.eval()(image), strict=True):
            assert torch.equal(ours, theirs)


def test_options_name_what_the_models_have() -> None:
    fields = Stage1Parity.model_fields
    assert {*get_args(fields["boundary"].annotation), "trained"} == set(BOUNDARIES)
    assert get_args(fields["encoder_mode"].annotation) == get_args(EncoderMode)


def test_the_scale_of_e5_is_an_untrained_classifier_summed_over_its_classes() -> None:
    scale_C = random_e5_scale(2048, seed=5)
    torch.manual_seed(5)
    assert torch.equal(scale_C, nn.Linear(2048, 1000).weight.detach().sum(0))
    assert abs(scale_C.mean()) < 0.03
    assert 0.38 < scale_C.std() < 0.42
    assert 0.45 < (scale_C < 0).float().mean() < 0.55
    assert not torch.equal(scale_C, random_e5_scale(2048, seed=6))


@pytest.mark.parametrize("mode", get_args(EncoderMode))
def test_encoder_modes_change_the_right_tensors(mode: EncoderMode) -> None:
    net = ActivationNet(build_encoder("mobilenet_v2"), fusion_stride=8, encoder_mode=mode)
    before = {name: tensor.clone() for name, tensor in net.encoder.state_dict().items()}
    sum(theta.square().sum() for theta in net(torch.randn(2, 3, 64, 64))).backward()
    moved = {n for n, t in net.encoder.state_dict().items() if not torch.equal(t, before[n])}
    buffers = {name for name, _ in net.encoder.named_buffers()}
    assert moved == (set() if mode == "frozen" else buffers)
    have_gradients = [p.grad is not None for p in net.encoder.parameters()]
    assert all(have_gradients) if mode == "trained" else not any(have_gradients)
    assert not any(module.training for module in net.eval().encoder.modules())
