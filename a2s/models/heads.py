"""Heads of stage 1: trainable blocks that make activation maps of features; several over the same.

Shape suffixes: B images, C channels, H W the image's size, h w a map's size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from a2s.data.transforms import crop_cells
from a2s.models.blocks import SEBlock, Size
from a2s.models.boundary import BOUNDARIES, decide

FUSION_STRIDES = (2, 4, 8)
NUM_MAPS = 4
CELL_PX = 32
"""Side in pixels of a cell: one pixel of E5, two of E4, four of E3."""


class ActivationMaps(NamedTuple):
    """Theta (Eqn 3) of the fused features and of the three feature maps that are fused.

    Each is [B, 1, h, w] at its own size, without the sign of Eqn 5.
    """

    theta: Tensor
    theta3: Tensor
    theta4: Tensor
    theta5: Tensor


class ActivationBlocks(nn.Module):
    """Trainable part of stage 1: the SE blocks SE_3, SE_4, SE_5 and the fusion block SE_0.

    `e5_scale_C` multiplies E5 channel by channel. The authors' released weights need it; the paper
    does not mention it. `boundary` is one of `BOUNDARIES`, the same for all maps. DB4 and
    `trained` learn channel weights per map, `trained` also an origin; DB1's origin is each map's
    training-set mean (`update_running_mean`).

    Reference: Eqn 1; boundaries Sec. IV-E
    """

    e5_scale_C: Tensor | None
    trainset_mean_K: Tensor | None
    learned_KC: nn.Parameter | None
    origin_K: nn.Parameter | None

    def __init__(
        self,
        channels: tuple[int, int, int],
        *,
        fusion_stride: int,
        width: int = 64,
        e5_scale_C: Tensor | None = None,
        boundary: str = "adb",
    ) -> None:
        super().__init__()
        assert fusion_stride in FUSION_STRIDES, f"fusion_stride is one of {FUSION_STRIDES}"
        self.fusion_stride = fusion_stride
        self.boundary = boundary
        self.se3 = SEBlock(channels[0], width)
        self.se4 = SEBlock(channels[1], width)
        self.se5 = SEBlock(channels[2], width)
        self.se0 = SEBlock(3 * width, width)
        self.register_buffer("e5_scale_C", e5_scale_C)
        self.register_buffer(
            "trainset_mean_K", torch.zeros(NUM_MAPS) if boundary == "db1" else None
        )
        # Drawn last, so that the blocks get the same initial weights with every boundary.
        has_weights, has_origin = boundary in ("db4", "trained"), boundary == "trained"
        self.register_parameter("learned_KC", _linear_weights(width) if has_weights else None)
        origin_K = nn.Parameter(torch.zeros(NUM_MAPS)) if has_origin else None
        self.register_parameter("origin_K", origin_K)

    def forward(self, e3: Tensor, e4: Tensor, e5: Tensor, *, size: Size) -> ActivationMaps:
        """Compute the maps of images of this `size` from the encoder's last three feature maps."""
        if self.e5_scale_C is not None:
            e5 = e5 * self.e5_scale_C[:, None, None]
        features = self.se3(e3), self.se4(e4), self.se5(e5)
        boundary, stride = BOUNDARIES[self.boundary], self.fusion_stride
        none_K = (None,) * NUM_MAPS
        learned = none_K if self.learned_KC is None else self.learned_KC.unbind()
        origin_K = self.trainset_mean_K if self.origin_K is None else self.origin_K
        origins = none_K if origin_K is None else origin_K.unbind()
        fused = self.se0.activation_of_upsampled(
            features,
            size=(-(-size[0] // stride), -(-size[1] // stride)),
            weigh=lambda mean_BC: boundary.weigh(mean_BC, learned[0]),
        )
        theta = boundary.measure(fused, origins[0])
        thetas = (
            decide(f, boundary, learned_C=learned_C, origin=origin)
            for f, learned_C, origin in zip(features, learned[1:], origins[1:], strict=True)
        )
        return ActivationMaps(theta, *thetas)

    @torch.no_grad()
    def update_running_mean(self, theta_K: Tensor, *, share: float) -> None:
        """Update DB1's running means by `share * theta_K`; other boundaries have none.

        `theta_K` is the mean theta of some images, the distance of their mean from the running
        mean. So the running mean moves a `share` of the way to the mean of these images.
        """
        if self.trainset_mean_K is not None:
            self.trainset_mean_K += share * theta_K.to(self.trainset_mean_K.dtype)


def _linear_weights(width: int) -> nn.Parameter:
    """Weights of one linear layer per map, as torch initialises them."""
    return nn.Parameter(torch.cat([nn.Linear(width, 1).weight for _ in range(NUM_MAPS)]).detach())


Taps = tuple[Tensor, Tensor, Tensor]
"""E3, E4, E5; those of several views of an image are one after the other along the channels."""


class Heads(nn.ModuleList):
    """Sets of trainable blocks with their own initial weights.

    `view_of_head` says which view of the image a head sees: none of its features are another's.
    """

    view_of_head: list[int]

    def maps_of(self, number: int, taps: Taps, *, size: Size) -> ActivationMaps:
        """Compute the maps of one head, of images of `size`."""
        view, num_views = self.view_of_head[number], max(self.view_of_head) + 1
        e3, e4, e5 = (tap.chunk(num_views, dim=1)[view] for tap in taps)
        maps: ActivationMaps = self[number](e3, e4, e5, size=size)
        return maps

    def forward(
        self,
        e3: Tensor,
        e4: Tensor,
        e5: Tensor,
        *,
        size: Size,
        window: tuple[slice, slice] | None = None,
    ) -> list[ActivationMaps]:
        """Compute the maps of every head, of images of `size`; heads with labels, of a window.

        The window is in cells (`draw_window`).
        """
        if window is None:
            return [self.maps_of(number, (e3, e4, e5), size=size) for number in range(len(self))]
        rows, columns = window
        p3, p4, p5 = (crop_cells(tap, window, cell=n) for tap, n in ((e3, 4), (e4, 2), (e5, 1)))
        part_size = (
            (rows.stop - rows.start) * CELL_PX,
            (columns.stop - columns.start) * CELL_PX,
        )
        return [
            self.maps_of(number, (p3, p4, p5), size=part_size)
            if head.boundary == "trained"
            else self.maps_of(number, (e3, e4, e5), size=size)
            for number, head in enumerate(self)
        ]
