"""Decoder of MINet, the baseline detector of Table VII: neighbouring levels exchange features.

Every map is normalised by BatchNorm, which learns running statistics from the training batches.
Shape suffixes: B images, C channels, H W the output's size, h w another map's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from a2s.models.blocks import Size, upsample


class Gather(nn.Module):
    """Sum of 3x3 convolutions of maps of one size, BatchNorm, ReLU.

    Shape: [B, channels[i], H, W] each -> [B, channels_out, H, W]
    """

    def __init__(self, channels: Sequence[int], channels_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(c, channels_out, 3, padding=1, bias=bias) for c in channels
        )
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, *maps: Tensor) -> Tensor:
        """Convolve, add, normalise."""
        convolved = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        return F.relu(self.norm(sum(convolved[1:], convolved[0])), inplace=True)


def halve(x_BCHW: Tensor) -> Tensor:
    """Average-pool 2x2 pixels; at an odd size the last row or column averages fewer pixels.

    Shape: [B, C, H, W] -> [B, C, ceil(H / 2), ceil(W / 2)]
    """
    return F.avg_pool2d(x_BCHW, 2, ceil_mode=True)


def _to_level(maps: Sequence[Tensor], source: int, level: int) -> Tensor:
    """Resize the map of level `source` to the size of `level`, the same or a neighbour."""
    if source < level:
        return halve(maps[source])
    if source == level:
        return maps[source]
    return F.interpolate(maps[source], size=maps[level].shape[2:], mode="nearest")


class AggregateInteraction(nn.Module):
    """AIM: fuses an encoder level with its finer and coarser neighbours.

    `channels` are those of two or three neighbouring levels, the finest first; `own` is the index
    of the level that the output belongs to. All levels are reduced to the smallest number of
    channels, exchange features with their neighbours, and are collected at the own level.

    Shape: [B, channels[i], h_i, w_i] each -> [B, channels_out, H, W], the own level's size
    Reference: Pang et al. 2020, Sec. 3.2
    """

    def __init__(self, channels: Sequence[int], channels_out: int, *, own: int) -> None:
        super().__init__()
        self.own = own
        width, levels = min(channels), range(len(channels))
        self.sources = [[s for s in levels if abs(s - level) <= 1] for level in levels]
        self.enter = nn.ModuleList(Gather((c,), width) for c in channels)
        self.exchange = nn.ModuleList(Gather([width] * len(s), width) for s in self.sources)
        self.collect = Gather([width] * len(channels), width)
        self.leave = nn.Conv2d(width, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels[own], channels_out, 1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Aggregate the levels around the own one."""
        maps = [enter(e) for enter, e in zip(self.enter, taps, strict=True)]
        maps = [
            exchange(*(_to_level(maps, source, level) for source in sources))
            for level, (exchange, sources) in enumerate(
                zip(self.exchange, self.sources, strict=True)
            )
        ]
        own_BCHW = self.collect(*(_to_level(maps, s, self.own) for s in range(len(maps))))
        own_BCHW = self.norm(self.leave(own_BCHW)) + self.shortcut(taps[self.own])
        return F.relu(own_BCHW, inplace=True)


class SelfInteraction(nn.Module):
    """SIM: a map exchanges features with a version of half its size and channels.

    Shape: [B, C, H, W] -> the same
    Reference: Pang et al. 2020, Sec. 3.3
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.enter_high = Gather((width,), width)
        self.enter_low = Gather((width,), half)
        self.exchange_high = Gather((width, half), width)
        self.exchange_low = Gather((width, half), half)
        self.collect = Gather((width, half), width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Interact at the map's own size and at half of it."""
        size = (x_BCHW.shape[2], x_BCHW.shape[3])
        high, low = self.enter_high(x_BCHW), self.enter_low(halve(x_BCHW))
        high, low = (
            self.exchange_high(high, upsample(low, size)),
            self.exchange_low(halve(high), low),
        )
        collected: Tensor = self.collect(high, upsample(low, size))
        return collected


class MINetDecoder(nn.Module):
    """Decodes five encoder taps to one map of logits.

    Reference: Pang, Zhao, Zhang, Lu: Multi-scale Interactive Network for Salient Object Detection,
    CVPR 2020, in its configuration for ResNet-50 (Table VII)
    """

    def __init__(self, channels: Sequence[int], *, width: int = 64) -> None:
        super().__init__()
        half = width // 2
        levels = range(len(channels))
        self.neighbours = [slice(max(0, level - 1), level + 2) for level in levels]
        self.aggregate = nn.ModuleList(
            AggregateInteraction(channels[near], width, own=level - near.start)
            for level, near in enumerate(self.neighbours)
        )
        self.interact = nn.ModuleList(SelfInteraction(width) for _ in levels)
        self.fuse = nn.ModuleList(
            Gather((width,), width if level else half, bias=False) for level in levels
        )
        self.sharpen = Gather((half,), half, bias=False)
        self.classify = nn.Conv2d(half, 1, 1)

    def forward(self, taps: tuple[Tensor, ...], *, size: Size) -> Tensor:
        """Compute logits for images of this `size`.

        Shape: E1..E5 -> [B, 1, *size]
        """
        levels = [
            aggregate(taps[near])
            for aggregate, near in zip(self.aggregate, self.neighbours, strict=True)
        ]
        x = levels[-1]
        for level in reversed(range(len(levels))):
            if level < len(levels) - 1:
                x = levels[level] + upsample(x, (levels[level].shape[2], levels[level].shape[3]))
            x = self.fuse[level](x + self.interact[level](x))
        logits: Tensor = self.classify(self.sharpen(upsample(x, size)))
        return logits
