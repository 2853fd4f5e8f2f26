"""MINet compared with a second implementation of its paper, in plain functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.models.encoders import set_batchnorm
from a2s.models.minet import AggregateInteraction, Gather, SelfInteraction, halve


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def with_random_norms(module: nn.Module) -> nn.Module:
    """Randomise BatchNorm statistics, scales and shifts, which are trivial in a new module."""
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.running_mean, norm.bias.data):
            tensor.normal_()
        for tensor in (norm.running_var, norm.weight.data):
            tensor.uniform_(0.5, 2)
    return module.eval()


def normalised(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, variance, scale, shift = (
        t[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (variance + 1e-5).sqrt() * scale + shift


def gathered(gather: Gather, *maps: Tensor) -> Tensor:
    total = sum(
        F.conv2d(x, conv.weight, conv.bias, padding=1)
        for conv, x in zip(gather.convs, maps, strict=True)
    )
    return normalised(gather.norm, total).clamp(min=0)


def pooled(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)


def left(aim: AggregateInteraction, own: Tensor, tap: Tensor) -> Tensor:
    out = F.conv2d(own, aim.leave.weight, aim.leave.bias, padding=1)
    shortcut = F.conv2d(tap, aim.shortcut.weight, aim.shortcut.bias)
    return (normalised(aim.norm, out) + shortcut).clamp(min=0)


def test_an_aim_of_three_levels() -> None:
    aim = with_random_norms(AggregateInteraction((6, 5, 7), 4, own=1))
    taps = [torch.randn(2, c, 16 // n, 24 // n) for c, n in ((6, 1), (5, 2), (7, 4))]
    h, m, low = (gathered(g, x) for g, x in zip(aim.enter, taps, strict=True))
    exchange = aim.exchange
    h1 = gathered(exchange[0], h, doubled(m))
    m1 = gathered(exchange[1], pooled(h), m, doubled(low))
    l1 = gathered(exchange[2], pooled(m), low)
    m2 = gathered(aim.collect, pooled(h1), m1, doubled(l1))
    with torch.no_grad():
        torch.testing.assert_close(aim(taps), left(aim, m2, taps[1]), rtol=1e-4, atol=1e-4)
    assert {p.shape[0] for g in aim.enter for p in g.parameters()} == {5}, "the fewest channels"


@pytest.mark.parametrize("own", [0, 1])
def test_an_aim_at_either_end(own: int) -> None:
    aim = with_random_norms(AggregateInteraction((6, 5), 4, own=own))
    taps = [torch.randn(2, c, 16 // n, 24 // n) for c, n in ((6, 1), (5, 2))]
    h, low = (gathered(g, x) for g, x in zip(aim.enter, taps, strict=True))
    h1 = gathered(aim.exchange[0], h, doubled(low))
    l1 = gathered(aim.exchange[1], pooled(h), low)
    maps = (pooled(h1), l1) if own else (h1, doubled(l1))
    expected = left(aim, gathered(aim.collect, *maps), taps[own])
    with torch.no_grad():
        torch.testing.assert_close(aim(taps), expected, rtol=1e-4, atol=1e-4)


def test_a_sim() -> None:
    sim, x = with_random_norms(SelfInteraction(6)), torch.randn(2, 6, 8, 12)

    def enlarged(low: Tensor) -> Tensor:
        return F.interpolate(low, size=(8, 12), mode="bilinear", align_corners=False)

    h, low = gathered(sim.enter_high, x), gathered(sim.enter_low, pooled(x))
    h1 = gathered(sim.exchange_high, h, enlarged(low))
    l1 = gathered(sim.exchange_low, pooled(h), low)
    with torch.no_grad():
        expected = gathered(sim.collect, h1, enlarged(l1))
        torch.testing.assert_close(sim(x), expected, rtol=1e-4, atol=1e-4)
    assert sim.enter_low.norm.num_features == 3, "half the channels"


def test_halving_an_odd_size_averages_the_existing_pixels() -> None:
    x = torch.arange(15.0).view(1, 1, 3, 5)
    assert halve(x)[0, 0].tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]
    assert halve(x[..., :1, :1]).shape == (1, 1, 1, 1)


def test_encoder_statistics_are_frozen_while_the_decoder_learns_its_own() -> None:
    net = Detector(load_encoder("mobilenet_v2", None), detector="minet").train()
    set_batchnorm(net.encoder, "frozen")
    before = {name: b.clone() for name, b in net.named_buffers() if "running_mean" in name}
    net(torch.randn(2, 3, 64, 64))
    moved = {
        name for name, b in net.named_buffers() if name in before and (b != before[name]).any()
    }
    assert moved == {name for name in before if name.startswith("decoder.")}


def test_bfloat16_is_close_to_single_precision() -> None:
    encoder = load_encoder("mobilenet_v2", None).eval()
    decoder = Detector(encoder, detector="minet").decoder.train()
    with torch.no_grad():
        taps = encoder(torch.randn(4, 3, 64, 64))
        expected = decoder(taps, size=(64, 64))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = decoder(taps, size=(64, 64))
    assert found.dtype == torch.bfloat16
    both = torch.stack([found.float().flatten(), expected.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.995
