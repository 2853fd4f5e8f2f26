"""The stage 1 network: an encoder, and the blocks that learn to tell regions apart.

Shape suffixes: B images, C channels, H W the image's size, h w a map's size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from a2s.models.blocks import SEBlock, Size
from a2s.models.boundary import BOUNDARIES, decide
from a2s.models.encoders import Encoder

FUSION_STRIDES = (2, 4, 8)
NUM_MAPS = 4
SCALE_CLASSES = 1000

EncoderMode = Literal["frozen", "batch_statistics", "trained"]


class ActivationMaps(NamedTuple):
    """Theta (Eqn 3) of the fused features and of the three they were made from.

    Each [B, 1, h, w] at its own size, without the sign of Eqn 5.
    """

    theta: Tensor
    theta3: Tensor
    theta4: Tensor
    theta5: Tensor


def random_e5_scale(channels: int, *, seed: int) -> Tensor:
    """Draw the fixed factors that the authors' code puts on E5: a classifier left untrained.

    They are the column sums of a linear layer to a thousand classes as torch initialises it; the
    layer is never loaded and never trained. Half of them are negative.

    Shape: [C]
    """
    weight_NC = torch.empty(SCALE_CLASSES, channels)
    generator = torch.Generator().manual_seed(seed)
    nn.init.kaiming_uniform_(weight_NC, a=5**0.5, generator=generator)
    return weight_NC.sum(0)


class ActivationBlocks(nn.Module):
    """All that stage 1 trains beside a frozen encoder: SE_3, SE_4, SE_5 and the fusion SE_0.

    `e5_scale_C` multiplies E5 channel by channel; the authors' released weights need it, the paper
    does not have it. `boundary` is one of `BOUNDARIES`, the same for all maps; DB4 has weights of
    its own for each map, DB1 the mean of each map over the training set (`update_running_mean`).

    Reference: Eqn 1; boundaries Sec. IV-E
    """

    e5_scale_C: Tensor | None
    trainset_mean_K: Tensor | None
    learned_KC: nn.Parameter | None

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
        # Drawn last, so that the blocks start alike whatever the boundary.
        self.register_parameter("learned_KC", _linear_weights(width) if boundary == "db4" else None)

    def forward(self, e3: Tensor, e4: Tensor, e5: Tensor, *, size: Size) -> ActivationMaps:
        """Compute the maps of images of this `size` from the encoder's last three taps."""
        if self.e5_scale_C is not None:
            e5 = e5 * self.e5_scale_C[:, None, None]
        features = self.se3(e3), self.se4(e4), self.se5(e5)
        boundary, stride = BOUNDARIES[self.boundary], self.fusion_stride
        nothing = (None,) * NUM_MAPS
        learned = nothing if self.learned_KC is None else self.learned_KC.unbind()
        means = nothing if self.trainset_mean_K is None else self.trainset_mean_K.unbind()
        fused = self.se0.activation_of_upsampled(
            features,
            size=(-(-size[0] // stride), -(-size[1] // stride)),
            weigh=lambda mean_BC: boundary.weigh(mean_BC, learned[0]),
        )
        theta = boundary.measure(fused, means[0])
        thetas = (
            decide(f, boundary, learned_C=learned_C, trainset_mean=mean)
            for f, learned_C, mean in zip(features, learned[1:], means[1:], strict=True)
        )
        return ActivationMaps(theta, *thetas)

    @torch.no_grad()
    def update_running_mean(self, theta_K: Tensor, *, share: float) -> None:
        """Move DB1's means by a `share` of the way to those of the images that gave mean `theta_K`.

        Nothing for the other boundaries.
        """
        if self.trainset_mean_K is not None:
            self.trainset_mean_K += share * theta_K.to(self.trainset_mean_K.dtype)


def _linear_weights(width: int) -> nn.Parameter:
    """A linear layer's weights for each map, as torch initialises them."""
    return nn.Parameter(torch.cat([nn.Linear(width, 1).weight for _ in range(NUM_MAPS)]).detach())


class ActivationNet(nn.Module):
    """Maps an image to its activation maps.

    The encoder is `frozen`; or its weights are, while BatchNorm normalises with the statistics of
    the batch and remembers them (`batch_statistics`, the authors' code); or it is `trained`. It
    matters in training only. `sign_tie` is the sign (`boundary.sign`) that belongs to the maps.

    Reference: Sec. III-A, Fig. 3
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        fusion_stride: int,
        width: int = 64,
        e5_scale_C: Tensor | None = None,
        boundary: str = "adb",
        sign_tie: int = 1,
        encoder_mode: EncoderMode = "frozen",
    ) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(encoder_mode == "trained")
        self.encoder_mode = encoder_mode
        self.width = width
        self.sign_tie = sign_tie
        self.blocks = ActivationBlocks(
            encoder.channels[2:],
            fusion_stride=fusion_stride,
            width=width,
            e5_scale_C=e5_scale_C,
            boundary=boundary,
        )
        self.train()

    def train(self, mode: bool = True) -> ActivationNet:
        """Switch the blocks, and the encoder where it is not frozen."""
        super().train(mode)
        self.encoder.train(mode and self.encoder_mode != "frozen")
        return self

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
            "boundary": self.blocks.boundary,
            "sign_tie": str(self.sign_tie),
        }
