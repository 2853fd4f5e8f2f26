"""What every encoder is: five taps E1..E5 of an image classifier, at strides 2, 4, 8, 16, 32.

Shape suffixes: B images, H W the image's size.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from a2s.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Rgb, normalise

Taps = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Channels = tuple[int, int, int, int, int]


class Encoder(nn.Module):
    """An image classifier without its head.

    Shape: normalised image [B, 3, H, W] -> E1..E5, [B, channels[i], ceil(H / strides[i]), ...]
    Reference: Sec. III-A, III-B
    """

    name: str
    variants: ClassVar[tuple[str, ...]] = ("torchvision",)
    """Published versions of the architecture whose weights have different tensors."""
    channels: Channels
    strides: ClassVar = (2, 4, 8, 16, 32)
    mean: Rgb = IMAGENET_MEAN
    """Mean of its training images, in 0..1; `std` is their deviation."""
    std: Rgb = IMAGENET_STD
    library: ClassVar[str] = "torchvision"
    """What computes it, with the version if the taps may depend on it."""
    classifier_names: ClassVar[frozenset[str]] = frozenset()
    """Names of tensors in published files that no tap needs, besides usual ones of classifiers."""
    registers_in_order: ClassVar[bool] = True
    """Whether each BatchNorm is registered just after the convolution whose output it takes."""

    def __init__(self, *, variant: str) -> None:
        super().__init__()
        self.variant = variant

    def forward(self, image_B3HW: Tensor) -> Taps:
        """Compute the five taps of normalised images."""
        raise NotImplementedError

    def normalise(self, image_u8_B3HW: Tensor) -> Tensor:
        """Normalise RGB bytes as in this encoder's training.

        Shape: uint8 `[B,3,H,W] -> float32 [B,3,H,W]`
        """
        return normalise(image_u8_B3HW, mean=self.mean, std=self.std)

    def check_side(self, side: int) -> None:
        """Check that it takes square images of this side.

        Raises:
            ConfigError: it does not; those that are built in take any.
        """

    def spec(self) -> dict[str, str]:
        """Arguments of `build_encoder` that rebuild this encoder."""
        return {"name": self.name, "variant": self.variant}
