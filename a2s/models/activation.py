"""The stage 1 network: a frozen encoder, and the blocks that learn to tell regions apart.

Shape suffixes: B images, C channels, H W the image's size, h w a map's size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from a2s.boundary import adaptive_boundary, centred
from a2s.models.blocks import SEBlock, Size
from a2s.models.encoders import Encoder

FUSION_STRIDES = (2, 4, 8)


class ActivationMaps(NamedTuple):
    """Theta (Eqn 3) of the fused features and of the three they were made from.

    Each [B, 1, h, w] at its own size, without the sign of Eqn 5.
    """

    theta: Tensor
    theta3: Tensor
    theta4: Tensor
    theta5: Tensor


class ActivationBlocks(nn.Module):
    """All that stage 1 trains: SE_3, SE_4, SE_5 and the fusion SE_0.

    `e5_scale_C` multiplies E5 channel by channel; the authors' released weights need it, the paper
    does not have it.

    Reference: Eqn 1
    """

    e5_scale_C: Tensor | None

    def __init__(
        self,
        channels: tuple[int, int, int],
        *,
        fusion_stride: int,
        width: int = 64,
        e5_scale_C: Tensor | None = None,
    ) -> None:
        super().__init__()
        assert fusion_stride in FUSION_STRIDES, f"fusion_stride is one of {FUSION_STRIDES}"
        self.fusion_stride = fusion_stride
        self.se3 = SEBlock(channels[0], width)
        self.se4 = SEBlock(channels[1], width)
        self.se5 = SEBlock(channels[2], width)
        self.se0 = SEBlock(3 * width, width)
        self.register_buffer("e5_scale_C", e5_scale_C)

    def forward(self, e3: Tensor, e4: Tensor, e5: Tensor, *, size: Size) -> ActivationMaps:
        """Compute the maps of images of this `size` from the encoder's last three taps."""
        if self.e5_scale_C is not None:
            e5 = e5 * self.e5_scale_C[:, None, None]
        f3, f4, f5 = self.se3(e3), self.se4(e4), self.se5(e5)
        stride = self.fusion_stride
        fused = self.se0.activation_of_upsampled(
            (f3, f4, f5), size=(-(-size[0] // stride), -(-size[1] // stride))
        )
        return ActivationMaps(centred(fused), *(adaptive_boundary(f) for f in (f3, f4, f5)))


class ActivationNet(nn.Module):
    """Maps an image to its activation maps; the encoder never changes.

    Reference: Sec. III-A, Fig. 3
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        fusion_stride: int,
        width: int = 64,
        e5_scale_C: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False)
        self.width = width
        self.blocks = ActivationBlocks(
            encoder.channels[2:], fusion_stride=fusion_stride, width=width, e5_scale_C=e5_scale_C
        )
        self.train()

    def train(self, mode: bool = True) -> ActivationNet:
        """Switch the blocks only: the encoder's batch statistics stay as they were learned."""
        super().train(mode)
        self.encoder.eval()
        return self

    @torch.no_grad()
    def encode(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute E3, E4, E5 of normalised images; they alone (and the size) make the maps."""
        _, _, e3, e4, e5 = self.encoder(image_B3HW)
        return e3, e4, e5

    def heads(self, e3: Tensor, e4: Tensor, e5: Tensor, *, size: Size) -> ActivationMaps:
        """Compute the maps of images of `size` (H, W) from encoded features."""
        maps: ActivationMaps = self.blocks(e3, e4, e5, size=size)
        return maps

    def forward(self, image_B3HW: Tensor) -> ActivationMaps:
        """Compute the maps of normalised images."""
        size = (image_B3HW.shape[2], image_B3HW.shape[3])
        return self.heads(*self.encode(image_B3HW), size=size)

    def spec(self) -> dict[str, str]:
        """Return what `build_from_spec` needs to make this network again, weights aside."""
        return {
            "kind": "activation",
            **{f"encoder.{key}": value for key, value in self.encoder.spec().items()},
            "width": str(self.width),
            "fusion_stride": str(self.blocks.fusion_stride),
            "e5_scale": str(self.blocks.e5_scale_C is not None).lower(),
        }
