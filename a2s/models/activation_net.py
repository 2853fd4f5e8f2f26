"""Network of stage 1: a pretrained encoder, and trainable blocks that make activation maps.

Shape suffixes: B images, C channels, H W the image's size, h w a map's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a2s.models.blocks import SEBlock, Size
from a2s.models.boundary import BOUNDARIES, decide
from a2s.models.encoder_base import Encoder
from a2s.models.vote import mean_vote

FUSION_STRIDES = (2, 4, 8)
NUM_MAPS = 4
SCALE_CLASSES = 1000

EncoderMode = Literal["frozen", "batch_statistics", "trained"]


class ActivationMaps(NamedTuple):
    """Theta (Eqn 3) of the fused features and of the three feature maps that are fused.

    Each is [B, 1, h, w] at its own size, without the sign of Eqn 5.
    """

    theta: Tensor
    theta3: Tensor
    theta4: Tensor
    theta5: Tensor


def random_e5_scale(channels: int, *, seed: int) -> Tensor:
    """Draw the fixed factors by which the authors' code multiplies E5.

    They are the column sums of an untrained classifier: a linear layer to a thousand classes, as
    torch initialises it, whose weights are never loaded or trained. Half of them are negative.

    Shape: [C]
    """
    weight_NC = torch.empty(SCALE_CLASSES, channels)
    generator = torch.Generator().manual_seed(seed)
    nn.init.kaiming_uniform_(weight_NC, a=5**0.5, generator=generator)
    return weight_NC.sum(0)


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


class Heads(nn.ModuleList):
    """Sets of trainable blocks with their own initial weights, over the same features."""

    def forward(self, e3: Tensor, e4: Tensor, e5: Tensor, *, size: Size) -> list[ActivationMaps]:
        """Compute the maps of every head."""
        return [head(e3, e4, e5, size=size) for head in self]


class ActivationNet(nn.Module):
    """Maps an image to its activation maps.

    `encoder_mode` matters in training only. `frozen`: the encoder stays in eval mode, without
    gradients. `batch_statistics`, as in the authors' code: weights are frozen, but BatchNorm uses
    the batch's statistics and updates its running ones. `trained`: the encoder learns as well.
    `sign_tie` is the rule for ties (`boundary.sign`) that belongs to the maps.

    The paper's network has one head. Several heads, or one that learned from labels, vote: their
    probabilities are averaged over heads and both flips (`saliency`). `kept` are the heads that
    vote. `frame` pixels of the image, reflected around it, hide the encoder's zero padding, by
    which features tell how far the image's border is; features of the frame are cut off.

    Reference: Sec. III-A, Fig. 3
    """

    agreement_2KK: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        *,
        fusion_stride: int,
        width: int = 64,
        heads: int = 1,
        frame: int = 0,
        e5_scale_C: Tensor | None = None,
        boundary: str = "adb",
        sign_tie: int = 1,
        encoder_mode: EncoderMode = "frozen",
    ) -> None:
        super().__init__()
        assert frame % encoder.strides[-1] == 0, (frame, encoder.strides)
        self.encoder = encoder.requires_grad_(encoder_mode == "trained")
        self.encoder_mode = encoder_mode
        self.width = width
        self.frame = frame
        self.sign_tie = sign_tie
        self.heads = Heads(
            ActivationBlocks(
                encoder.channels[2:],
                fusion_stride=fusion_stride,
                width=width,
                e5_scale_C=e5_scale_C,
                boundary=boundary,
            )
            for _ in range(heads)
        )
        self.kept: Sequence[int] = range(heads)
        # Training sums here, in its last epoch, how far every pair of heads agrees (`agreement`).
        agreement_2KK = torch.zeros(2, heads, heads, dtype=torch.float64) if heads > 1 else None
        self.register_buffer("agreement_2KK", agreement_2KK)
        self.train()

    @property
    def votes(self) -> bool:
        """Whether its map is a vote, whose positive side is salient, and not one head's theta."""
        return len(self.heads) > 1 or self._first.boundary == "trained"

    @property
    def known_sign_tie(self) -> int | None:
        """Rule for ties of the sign of each head's theta; None if its sign is known."""
        return None if self._first.boundary == "trained" else self.sign_tie

    @property
    def _first(self) -> ActivationBlocks:
        first = self.heads[0]
        assert isinstance(first, ActivationBlocks)
        return first

    def train(self, mode: bool = True) -> ActivationNet:
        """Set the mode of the blocks, and of the encoder unless it is frozen."""
        super().train(mode)
        self.encoder.train(mode and self.encoder_mode != "frozen")
        return self

    def encode(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute E3, E4, E5 of normalised images, the only features that the maps depend on."""
        height, width = image_B3HW.shape[2:]
        stride = self.encoder.strides[-1]
        # A reflection is smaller than what it reflects.
        frame = min(self.frame, (min(height, width) - 1) // stride * stride)
        if frame == 0:
            _, _, e3, e4, e5 = self.encoder(image_B3HW)
            return e3, e4, e5
        _, _, *framed = self.encoder(F.pad(image_B3HW, (frame,) * 4, mode="reflect"))
        e3, e4, e5 = (
            tap[
                :,
                :,
                frame // s : frame // s - (-height // s),
                frame // s : frame // s - (-width // s),
            ]
            for tap, s in zip(framed, self.encoder.strides[2:], strict=True)
        )
        return e3, e4, e5

    def maps_of(self, e3: Tensor, e4: Tensor, e5: Tensor, *, size: Size) -> ActivationMaps:
        """Compute the first head's maps of images of `size` (H, W) from encoded features."""
        maps: ActivationMaps = self.heads[0](e3, e4, e5, size=size)
        return maps

    def forward(self, image_B3HW: Tensor) -> ActivationMaps:
        """Compute the first head's maps of normalised images."""
        size = (image_B3HW.shape[2], image_B3HW.shape[3])
        return self.maps_of(*self.encode(image_B3HW), size=size)

    def saliency(self, image_B3HW: Tensor) -> Tensor:
        """Theta of the only head (its sign is not known), or the log-odds of the heads' vote.

        Shape: normalised [B, 3, H, W] -> [B, 1, h, w]
        """
        if not self.votes:
            return self.forward(image_B3HW).theta
        size = (image_B3HW.shape[2], image_B3HW.shape[3])
        thetas = []
        for mirrored in (False, True):
            taps = self.encode(image_B3HW.flip(-1) if mirrored else image_B3HW)
            for number in self.kept:
                theta: Tensor = self.heads[number](*taps, size=size).theta
                thetas.append(theta.flip(-1) if mirrored else theta)
        return mean_vote(thetas, sign_tie=self.known_sign_tie)

    def spec(self) -> dict[str, str]:
        """Return the settings from which `build_from_spec` rebuilds this network."""
        return {
            "kind": "activation",
            **{f"encoder.{key}": value for key, value in self.encoder.spec().items()},
            "width": str(self.width),
            "heads": str(len(self.heads)),
            "frame": str(self.frame),
            "fusion_stride": str(self._first.fusion_stride),
            "e5_scale": str(self._first.e5_scale_C is not None).lower(),
            "boundary": self._first.boundary,
            "sign_tie": str(self.sign_tie),
        }
