"""Network of stage 1: a pretrained encoder, and trainable blocks that make activation maps.

Shape suffixes: B images, C channels, H W the image's size, h w a map's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from a2s.models.blocks import Size
from a2s.models.encoder_base import Encoder
from a2s.models.heads import CELL_PX, ActivationBlocks, ActivationMaps, Heads
from a2s.models.vote import mean_vote, probabilities

SCALE_CLASSES = 1000

EncoderMode = Literal["frozen", "batch_statistics", "trained"]


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


class ActivationNet(nn.Module):
    """Maps an image to its activation maps.

    `encoder_mode` matters in training only. `frozen`: the encoder stays in eval mode, without
    gradients. `batch_statistics`, as in the authors' code: weights are frozen, but BatchNorm uses
    the batch's statistics and updates its running ones. `trained`: the encoder learns as well.
    `sign_tie` is the rule for ties (`boundary.sign`) that belongs to the maps.

    The paper's network has one head. Several heads, or one that learned from labels, vote: their
    probabilities are averaged over both flips and the heads of a kind, then over the two kinds
    (`saliency`). The last `label_heads` of them learn from labels and have the boundary `trained`.
    `kept` are the heads that vote. `frame` pixels of the image, reflected around it, hide the
    encoder's zero padding, by which features tell how far the image's border is; features of the
    frame are cut off. The frame is that of heads with labels; `boundary_frame` is that of the
    others. Two frames are two views of an image: the encoder runs once for each.

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
        label_heads: int = 0,
        frame: int = 0,
        boundary_frame: int = 0,
        e5_scale_C: Tensor | None = None,
        boundary: str = "adb",
        sign_tie: int = 1,
        encoder_mode: EncoderMode = "frozen",
    ) -> None:
        super().__init__()
        assert frame % CELL_PX == boundary_frame % CELL_PX == 0, (frame, boundary_frame)
        assert 0 <= label_heads <= heads, (label_heads, heads)
        self.encoder = encoder.requires_grad_(encoder_mode == "trained")
        self.encoder_mode = encoder_mode
        self.width = width
        self.frame = frame
        self.boundary_frame = boundary_frame
        self.label_heads = label_heads
        self.boundary = boundary
        self.sign_tie = sign_tie
        self.heads = Heads(
            ActivationBlocks(
                encoder.channels[2:],
                fusion_stride=fusion_stride,
                width=width,
                e5_scale_C=e5_scale_C,
                boundary=boundary if number < heads - label_heads else "trained",
            )
            for number in range(heads)
        )
        frame_of_head = [
            boundary_frame if number < heads - label_heads else frame for number in range(heads)
        ]
        self.frames = tuple(dict.fromkeys(frame_of_head))
        """Frame of every view of an image, in the order of their channels (`encode`)."""
        self.heads.view_of_head = [self.frames.index(frame) for frame in frame_of_head]
        self.kept: Sequence[int] = range(heads)
        # Training sums here, in its last epoch, how far every pair of heads agrees (`agreement`).
        agreement_2KK = torch.zeros(2, heads, heads, dtype=torch.float64) if heads > 1 else None
        self.register_buffer("agreement_2KK", agreement_2KK)
        self.train()

    @property
    def votes(self) -> bool:
        """Whether its map is a vote, whose positive side is salient, and not one head's theta."""
        return len(self.heads) > 1 or self.label_heads > 0

    def sign_tie_of(self, head: int) -> int | None:
        """Rule for ties of the sign of a head's theta; None if its sign is known."""
        return self.sign_tie if head < len(self.heads) - self.label_heads else None

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

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of what `encode` returns."""
        c3, c4, c5 = (count * len(self.frames) for count in self.encoder.channels[2:])
        return c3, c4, c5

    def encode(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute E3, E4, E5 of normalised images, the only features that the maps depend on.

        Those of several views are one after the other along the channels.
        """
        views = [self._encode_view(image_B3HW, frame) for frame in self.frames]
        if len(views) == 1:
            return views[0]
        e3, e4, e5 = (torch.cat(taps, dim=1) for taps in zip(*views, strict=True))
        return e3, e4, e5

    def _encode_view(self, image_B3HW: Tensor, frame: int) -> tuple[Tensor, Tensor, Tensor]:
        height, width = image_B3HW.shape[2:]
        stride = self.encoder.strides[-1]
        # A reflection is smaller than what it reflects.
        frame = min(frame, (min(height, width) - 1) // stride * stride)
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
        return self.heads.maps_of(0, (e3, e4, e5), size=size)

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
        # Boundary and labels count equally: heads of one kind make the same errors.
        by_boundary, by_labels = list[Tensor](), list[Tensor]()
        for mirrored in (False, True):
            taps = self.encode(image_B3HW.flip(-1) if mirrored else image_B3HW)
            for number in self.kept:
                theta = self.heads.maps_of(number, taps, size=size).theta
                vote = probabilities(theta, sign_tie=self.sign_tie_of(number))
                votes = by_boundary if self.sign_tie_of(number) is not None else by_labels
                votes.append(vote.flip(-1) if mirrored else vote)
        return mean_vote([by_boundary, by_labels])

    def spec(self) -> dict[str, str]:
        """Return the settings from which `build_from_spec` rebuilds this network."""
        return {
            "kind": "activation",
            **{f"encoder.{key}": value for key, value in self.encoder.spec().items()},
            "width": str(self.width),
            "heads": str(len(self.heads)),
            "label_heads": str(self.label_heads),
            "frame": str(self.frame),
            "boundary_frame": str(self.boundary_frame),
            "fusion_stride": str(self._first.fusion_stride),
            "e5_scale": str(self._first.e5_scale_C is not None).lower(),
            "boundary": self.boundary,
            "sign_tie": str(self.sign_tie),
        }
