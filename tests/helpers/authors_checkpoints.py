"""Checkpoints as the authors' code saves them, and what their networks compute, written plainly.

Nothing here comes from the package: names and shapes are those that the authors' modules register
(`mnet` is stage 1, `cornet` stage 2), the arithmetic is torch's and torchvision's own functions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import resnet50

State = dict[str, Tensor]

CHANNELS = (64, 256, 512, 1024, 2048)
STAGE1_CONVS = {
    **{f"ad{i}.ad0.0": (64, CHANNELS[i], 3, 3) for i in (2, 3, 4)},
    "fusion.ad0.0": (64, 192, 3, 3),
    **{f"{block}.se.conv": (64, 64, 1, 1) for block in ("ad2", "ad3", "ad4", "fusion")},
}
STAGE1_NORMS = {
    f"{block}.{layer}": 64
    for block in ("ad2", "ad3", "ad4", "fusion")
    for layer in ("ad0.1", "se.gn")
}
STAGE2_CONVS = {
    **{f"adapter{i}.0": (64, channels, 3, 3) for i, channels in enumerate(CHANNELS)},
    "gb_conv.0": (128, 64, 3, 3),
    "gb_conv.4": (64, 128, 3, 3),
    **{
        f"{ram}.{layer}": (64, channels, 3, 3)
        for ram in ("region", "local")
        for layer, channels in {
            "gconv.0": 64,
            "res_conv1": 64,
            "res_conv2": 64,
            "fuse": 192,
        }.items()
    },
}
STAGE2_NORMS = {
    **{f"adapter{i}.1": 64 for i in range(5)},
    "gb_conv.1": 128,
    "gb_conv.5": 64,
    "region.gconv.1": 64,
    "local.gconv.1": 64,
}


def checkpoint(stage: int, *, attends: bool = True, seed: int = 0) -> State:
    """All tensors of one stage's network, every one of them random."""
    torch.manual_seed(seed)
    state: State = OrderedDict()
    encoder = resnet50(weights=None)
    for name, value in encoder.state_dict().items():
        is_counter = name.endswith("num_batches_tracked")
        # Statistics as a trained network has them: means apart from 0, positive variances.
        if is_counter:
            value = torch.tensor(375 * 20)
        elif "running_mean" in name:
            value = 0.1 * torch.randn(value.shape)
        elif "running_var" in name:
            value = 0.5 + torch.rand(value.shape)
        state[f"encoder.{name}"] = value.clone()
    convs = STAGE1_CONVS if stage == 1 else STAGE2_CONVS
    for name, shape in convs.items():
        if attends or ".res_conv" not in name:
            fan_in = shape[1] * shape[2] * shape[3]
            state[f"decoder.{name}.weight"] = torch.randn(shape) / fan_in**0.5
            state[f"decoder.{name}.bias"] = 0.1 * torch.randn(shape[0])
    for name, size in (STAGE1_NORMS if stage == 1 else STAGE2_NORMS).items():
        state[f"decoder.{name}.weight"] = 1 + 0.2 * torch.randn(size)
        state[f"decoder.{name}.bias"] = 0.2 * torch.randn(size)
    return state


def encoded(state: State, image_B3HW: Tensor) -> list[Tensor]:
    """E1..E5 by torchvision's network, its statistics those that are stored."""
    net = resnet50(weights=None)
    net.load_state_dict(
        {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    )
    net.eval()
    taps = [net.relu(net.bn1(net.conv1(image_B3HW)))]
    x = net.maxpool(taps[0])
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        taps.append(x)
    return taps


def _conv(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def _norm(x: Tensor, state: Mapping[str, Tensor], name: str, groups: int) -> Tensor:
    return F.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"])


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def stage1_maps(
    state: Mapping[str, Tensor], taps: list[Tensor], size: tuple[int, int], *, decoder: str
) -> list[Tensor]:
    """F (signed, at the images' size), F3, F4, F5; `decoder` is the prefix of its names."""
    e5 = taps[4] * state["encoder.fc.weight"].sum(0)[:, None, None]

    def gated(x: Tensor, block: str) -> Tensor:
        x = F.relu(
            _norm(_conv(x, state, f"{decoder}{block}.ad0.0"), state, f"{decoder}{block}.ad0.1", 1)
        )
        return x * _conv(x.mean((2, 3), keepdim=True), state, f"{decoder}{block}.se.conv").sigmoid()

    def summed(f: Tensor) -> Tensor:
        return (f - f.mean((2, 3), keepdim=True)).sum(1, keepdim=True)

    f3, f4, f5 = gated(taps[2], "ad2"), gated(taps[3], "ad3"), gated(e5, "ad4")
    fine = taps[0].shape[2:]
    fused = summed(gated(torch.cat([_resized(f, fine) for f in (f3, f4, f5)], 1), "fusion"))
    share = (fused > 0).float().mean((1, 2, 3), keepdim=True)
    signed = _resized(fused * torch.sign(0.5 - share), size)
    return [signed, summed(f3), summed(f4), summed(f5)]


def stage2_logits(
    state: Mapping[str, Tensor], taps: list[Tensor], size: tuple[int, int], *, decoder: str
) -> Tensor:
    """Saliency logits at the images' size; `decoder` is the prefix of its names."""

    def block(x: Tensor, conv: str, norm: str) -> Tensor:
        x = _conv(x, state, decoder + conv)
        return F.relu(_norm(x, state, decoder + norm, x.shape[1] // 2))

    def doubled(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def ram(fine: Tensor, coarse: Tensor, context: Tensor, name: str) -> Tensor:
        at = fine.shape[2:]
        context = _resized(block(context, f"{name}.gconv.0", f"{name}.gconv.1"), at)
        coarse = _resized(coarse, at)
        if f"{decoder}{name}.res_conv1.weight" in state:
            fine = fine * _conv(fine - context, state, f"{decoder}{name}.res_conv1").sigmoid()
            coarse = coarse * _conv(coarse - context, state, f"{decoder}{name}.res_conv2").sigmoid()
        return _conv(torch.cat([fine, coarse, context], 1), state, f"{decoder}{name}.fuse")

    h = [block(tap, f"adapter{i}.0", f"adapter{i}.1") for i, tap in enumerate(taps)]
    regional = ram(h[2], h[3], h[4], "region")
    descended = doubled(block(h[4], "gb_conv.0", "gb_conv.1"))
    descended = doubled(block(descended, "gb_conv.4", "gb_conv.5"))
    local = ram(h[0], h[1], descended, "local")
    product = local * _resized(regional, local.shape[2:])
    return _resized(product.sum(1, keepdim=True), size)
