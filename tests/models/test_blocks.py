from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from a2s.models.blocks import RAM, SEBlock, conv3x3_of_upsampled, upsample

side = st.integers(1, 23)


def plain(maps: Sequence[Tensor], weight: Tensor, bias: Tensor, *, size: tuple[int, int]) -> Tensor:
    resized = [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in maps]
    return F.conv2d(torch.cat(resized, 1), weight, bias, padding=1)


@given(
    size=st.tuples(side, side),
    map_sizes=st.lists(st.tuples(side, side), min_size=1, max_size=3),
    same=st.booleans(),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_conv_of_upsampled_equals_the_plain_way(
    size: tuple[int, int],
    map_sizes: list[tuple[int, int]],
    same: bool,
    batch: int,
    seed: int,
) -> None:
    """Any sizes: larger, smaller, equal, one pixel; the first map may already have the size."""
    generator = torch.Generator().manual_seed(seed)
    if same:
        map_sizes[0] = size
    maps = [torch.randn(batch, 3 + i, *s, generator=generator) for i, s in enumerate(map_sizes)]
    weight = torch.randn(5, sum(m.shape[1] for m in maps), 3, 3, generator=generator)
    bias = torch.randn(5, generator=generator)
    ours = conv3x3_of_upsampled(maps, weight, bias, size=size)
    expected = plain(maps, weight, bias, size=size)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-5)
    with torch.inference_mode():  # computed another way
        inferred = conv3x3_of_upsampled(maps, weight, bias, size=size)
    torch.testing.assert_close(inferred, expected, atol=2e-5, rtol=1e-5)


def test_conv_of_upsampled_at_training_size_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 4, n, n, generator=generator, dtype=torch.float64) for n in (40, 20, 10)]
    weight = torch.randn(6, 12, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    for size in ((160, 160), (80, 80), (40, 40)):
        ours = conv3x3_of_upsampled(maps, weight, bias, size=size)
        torch.testing.assert_close(ours, plain(maps, weight, bias, size=size), atol=1e-12, rtol=0)


def test_conv_of_upsampled_has_right_gradients() -> None:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_()

    maps = (draw(2, 2, 5, 7), draw(2, 1, 3, 4), draw(2, 2, 2, 2))
    weight, bias = draw(3, 5, 3, 3), draw(3)

    def ours(a: Tensor, b: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv3x3_of_upsampled((a, b, c), weight, bias, size=(5, 7))

    assert torch.autograd.gradcheck(ours, (*maps, weight, bias))
    inputs = (*maps, weight, bias)
    probe = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad((plain(maps, weight, bias, size=(5, 7)) * probe).sum(), inputs)
    found = torch.autograd.grad((ours(*inputs) * probe).sum(), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def test_channels_last_maps_give_the_same() -> None:
    maps = [torch.randn(2, 3, n, n) for n in (8, 4, 2)]
    weight, bias = torch.randn(5, 9, 3, 3), torch.randn(5)
    expected = conv3x3_of_upsampled(maps, weight, bias, size=(16, 16))
    maps = [m.to(memory_format=torch.channels_last) for m in maps]
    weight = weight.to(memory_format=torch.channels_last)
    found = conv3x3_of_upsampled(maps, weight, bias, size=(16, 16))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    with torch.inference_mode():
        inferred = conv3x3_of_upsampled(maps, weight, bias, size=(16, 16))
    torch.testing.assert_close(inferred, expected, atol=1e-5, rtol=1e-5)


def test_channel_mismatch_is_refused() -> None:
    with pytest.raises(AssertionError, match="channels"):
        conv3x3_of_upsampled(
            [torch.zeros(1, 2, 2, 2)], torch.zeros(4, 3, 3, 3), torch.zeros(4), size=(4, 4)
        )


def test_se_block_activation_equals_the_sum_of_its_features() -> None:
    block = SEBlock(9, 64)
    maps = [torch.randn(2, 3, n, n + 1) for n in (8, 4, 2)]
    size = (15, 17)
    features = block(torch.cat([upsample(m, size) for m in maps], 1))
    assert features.shape == (2, 64, *size)
    found = block.activation_of_upsampled(maps, size=size)
    torch.testing.assert_close(found, features.sum(1, keepdim=True), atol=1e-4, rtol=1e-5)


def test_se_block_sums_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    block, maps = SEBlock(6, 64), [torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        summed = block.activation_of_upsampled(maps, size=(8, 8))
    assert summed.dtype == torch.float32
    assert not torch.equal(summed, summed.bfloat16().float())


def test_se_block_follows_its_definition() -> None:
    block = SEBlock(3, 4)
    x = torch.randn(2, 3, 6, 5)
    y = F.conv2d(x, block.conv.weight, block.conv.bias, padding=1)
    mean, var = y.mean((1, 2, 3), keepdim=True), y.var((1, 2, 3), keepdim=True, unbiased=False)
    y = ((y - mean) / (var + 1e-5).sqrt()).relu()
    logits = y.mean((2, 3)) @ block.gate.weight[:, :, 0, 0].T + block.gate.bias
    expected = y * logits.sigmoid()[:, :, None, None]
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


def test_ram_without_attention_has_no_attention_weights() -> None:
    full, plain_ram = RAM(8, attention=True), RAM(8, attention=False)
    left_out = {name.split(".")[0] for name in full.state_dict()} - {
        name.split(".")[0] for name in plain_ram.state_dict()
    }
    assert left_out == {"attention_a", "attention_b"}
    shapes = [torch.randn(1, 8, n, n) for n in (8, 4, 2)]
    assert plain_ram(*shapes).shape == full(*shapes).shape == (1, 8, 8, 8)
