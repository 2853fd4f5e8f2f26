"""Network of stage 2: a fine-tuned encoder, and one of the three decoders of Table VII.

Shape suffixes: B images, C channels, H W the image's size.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from a2s.models.blocks import RAM, ConvGNReLU, Size, upsample
from a2s.models.encoder_base import Encoder
from a2s.models.minet import MINetDecoder

DetectorName = Literal["ram", "conv", "minet"]
DETECTORS: tuple[DetectorName, ...] = get_args(DetectorName)


class Levels(NamedTuple):
    """Feature maps of the local module (details) and the regional module (regions)."""

    local: Tensor
    regional: Tensor


class DetectorDecoder(nn.Module):
    """Decodes five encoder taps to one map of logits: local times regional features.

    `ram=False` omits the attention convolutions (the † row of Table VII).

    Reference: Eqn 7-11, Fig. 6
    """

    def __init__(
        self, channels: tuple[int, int, int, int, int], *, ram: bool = True, width: int = 64
    ) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(ConvGNReLU(c, width) for c in channels)
        # E5 reaches the local module through two convolutions, each followed by 2x upsampling.
        self.descend_a = ConvGNReLU(width, 2 * width)
        self.descend_b = ConvGNReLU(2 * width, width)
        self.regional = RAM(width, attention=ram)
        self.local = RAM(width, attention=ram)

    def forward(self, taps: tuple[Tensor, ...], *, size: Size) -> Tensor:
        """Compute logits for images of this `size`.

        Shape: E1..E5 -> [B, 1, *size]
        """
        local, regional = self.levels(taps)
        return upsample((local * regional).sum(1, keepdim=True), size)

    def levels(self, taps: tuple[Tensor, ...]) -> Levels:
        """Compute R_l and R_r, whose product summed over channels is the saliency.

        Shape: E1..E5 -> two maps [B, C, h, w] at E1's size
        Reference: Eqn 10, Fig. 11
        """
        h1, h2, h3, h4, h5 = (conv(e) for conv, e in zip(self.adapters, taps, strict=True))
        descended = _upsample_2x(self.descend_b(_upsample_2x(self.descend_a(h5))))
        regional = self.regional(h3, h4, h5)
        local = self.local(h1, h2, descended)
        return Levels(local, upsample(regional, (local.shape[2], local.shape[3])))


def _upsample_2x(x_BCHW: Tensor) -> Tensor:
    return upsample(x_BCHW, (2 * x_BCHW.shape[2], 2 * x_BCHW.shape[3]))


class Detector(nn.Module):
    """Maps normalised images to saliency logits of the same size; their sigmoid is the saliency.

    The decoder is the paper's ("ram"), the same without attention ("conv"), or MINet's ("minet").

    Shape: [B, 3, H, W] -> [B, 1, H, W]
    Reference: Sec. III-B, Sec. IV-F
    """

    decoder: DetectorDecoder | MINetDecoder

    def __init__(
        self, encoder: Encoder, *, detector: DetectorName = "ram", width: int = 64
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.detector = detector
        self.width = width
        if detector == "minet":
            self.decoder = MINetDecoder(encoder.channels, width=width)
        else:
            self.decoder = DetectorDecoder(encoder.channels, ram=detector == "ram", width=width)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Compute logits at the images' size."""
        size = (image_B3HW.shape[2], image_B3HW.shape[3])
        logits: Tensor = self.decoder(self.encoder(image_B3HW), size=size)
        return logits

    def spec(self) -> dict[str, str]:
        """Return the settings from which `build_from_spec` rebuilds this network."""
        return {
            "kind": "detector",
            **{f"encoder.{key}": value for key, value in self.encoder.spec().items()},
            "width": str(self.width),
            "detector": self.detector,
        }
