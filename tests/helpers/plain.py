"""Independent reference implementation of the method in plain torch, without a2s.

It follows the authors' code step by step; tests compare a2s with it. Weights are a dictionary of
tensors under the authors' names. Images, maps and labels are [B, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def conv(weights: Weights, name: str, x: Tensor) -> Tensor:
    kernel = weights[f"{name}.weight"]
    return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=kernel.shape[-1] // 2)


def group_norm(weights: Weights, name: str, x: Tensor, *, groups: int) -> Tensor:
    grouped = x.reshape(x.shape[0], groups, -1)
    centred = grouped - grouped.mean(2, keepdim=True)
    scaled = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
    weight, bias = (weights[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return scaled.reshape(x.shape) * weight + bias


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


# Stage 1


def se_block(weights: Weights, name: str, x: Tensor) -> Tensor:
    x = group_norm(weights, f"{name}.ad0.1", conv(weights, f"{name}.ad0.0", x), groups=1).relu()
    return x * conv(weights, f"{name}.se.conv", x.mean((2, 3), keepdim=True)).sigmoid()


def distance_from_mean(features: Tensor) -> Tensor:
    return (features - features.mean((2, 3), keepdim=True)).sum(1, keepdim=True)


def activation_maps(weights: Weights, taps: Sequence[Tensor], fc: Tensor, *, side: int) -> list:
    """F with its sign, at the input's size; F3, F4, F5 without sign, at their own sizes."""
    e3, e4, e5 = taps
    features = [
        se_block(weights, "ad2", e3),
        se_block(weights, "ad3", e4),
        se_block(weights, "ad4", e5 * fc.sum(0)[None, :, None, None]),
    ]
    joined = torch.cat([resize(f, (side // 2, side // 2)) for f in features], dim=1)
    fused = distance_from_mean(se_block(weights, "fusion", joined))
    share_above = (fused > 0).float().mean((1, 2, 3), keepdim=True)
    signed = fused * torch.sign(0.5 - share_above)
    return [resize(signed, (side, side)), *(distance_from_mean(f) for f in features)]


def activation_loss(maps: Sequence[Tensor], keeps: Sequence[Tensor]) -> Tensor:
    loss = torch.zeros(())
    for weight, theta, keep in zip((1.0, 0.1, 0.3, 0.5), maps, keeps, strict=True):
        p = theta.sigmoid()
        gained = (p - 0.5) ** 2 + 0.1 * (p - 0.5).abs()
        loss = loss + weight * (1 - (gained * keep).sum() / keep.sum())
    return loss


# Stage 2


def conv_norm(weights: Weights, name: str, first: int, x: Tensor) -> Tensor:
    x = conv(weights, f"{name}.{first}", x)
    return group_norm(weights, f"{name}.{first + 1}", x, groups=x.shape[1] // 2).relu()


def attention_module(weights: Weights, name: str, a: Tensor, b: Tensor, top: Tensor) -> Tensor:
    top = resize(conv_norm(weights, f"{name}.gconv", 0, top), a.shape[2:])
    b = resize(b, a.shape[2:])
    a = a * conv(weights, f"{name}.res_conv1", a - top).sigmoid()
    b = b * conv(weights, f"{name}.res_conv2", b - top).sigmoid()
    return conv(weights, f"{name}.fuse", torch.cat([a, b, top], dim=1))


def logits(weights: Weights, taps: Sequence[Tensor], *, side: int) -> Tensor:
    h1, h2, h3, h4, h5 = (conv_norm(weights, f"adapter{i}", 0, tap) for i, tap in enumerate(taps))
    top = conv_norm(weights, "gb_conv", 0, h5)
    top = conv_norm(weights, "gb_conv", 4, resize(top, [2 * n for n in top.shape[2:]]))
    top = resize(top, [2 * n for n in top.shape[2:]])
    local = attention_module(weights, "local", h1, h2, top)
    region = resize(attention_module(weights, "region", h3, h4, h5), local.shape[2:])
    return resize((local * region).sum(1, keepdim=True), (side, side))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    gauss = torch.tensor([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)])
    window = gauss[:, None] * gauss[None, :]
    window = (window / window.sum())[None, None]

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=5)

    mu_a, mu_b = blur(a), blur(b)
    var_a, var_b = blur(a * a) - mu_a**2, blur(b * b) - mu_b**2
    cov = blur(a * b) - mu_a * mu_b
    top = (2 * mu_a * mu_b + 1e-4) * (2 * cov + 9e-4)
    return (top / ((mu_a**2 + mu_b**2 + 1e-4) * (var_a + var_b + 9e-4))).mean()


def detection_loss(predicted: Tensor, label: Tensor) -> Tensor:
    p, target = predicted.sigmoid(), (label > 0.5).float()
    bce = -(target * F.logsigmoid(predicted) + (1 - target) * F.logsigmoid(-predicted)).mean()
    both = (p * target).sum((1, 2, 3))
    either = p.sum((1, 2, 3)) + target.sum((1, 2, 3)) - both
    return bce + 1 - ssim(p, target) + (1 - both / (either + 1e-7)).mean()


def next_label(label: Tensor, predicted: Tensor, *, epoch: int) -> Tensor:
    return 0.4 * label + 0.6 * predicted.detach().sigmoid() if epoch > 2 else label


# Both stages


def rates(lr: float, milestones: Sequence[int], *, epochs: int) -> Iterator[float]:
    """Learning rate per epoch; the scheduler is stepped before the epoch."""
    for epoch in range(1, epochs + 1):
        lr = lr * 0.1 if epoch in milestones else lr
        yield lr


class NesterovSGD:
    """Momentum 0.9, weight decay 0.0005; each group has a factor for the learning rate."""

    def __init__(self, groups: Sequence[tuple[Sequence[Tensor], float]]) -> None:
        self.groups = groups
        self.velocity: dict[int, Tensor] = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for tensors, share in self.groups:
            for tensor in tensors:
                assert tensor.grad is not None
                gradient = tensor.grad + 0.0005 * tensor
                old = self.velocity.get(id(tensor), torch.zeros_like(tensor))
                self.velocity[id(tensor)] = velocity = 0.9 * old + gradient
                tensor -= lr * share * (gradient + 0.9 * velocity)
                tensor.grad = None
