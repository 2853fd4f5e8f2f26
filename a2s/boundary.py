"""The adaptive decision boundary: what an activation map says about each pixel.

Shape suffixes: B images, C channels, H W the map's size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def adaptive_boundary(f_BCHW: Tensor) -> Tensor:
    """Measure how far each pixel's features lie from their image's mean, summed over channels.

    Shape: [B, C, H, W] -> theta [B, 1, H, W], which sums to zero over each image
    Reference: Eqn 3
    """
    return centred(f_BCHW.sum(1, keepdim=True))


def centred(activation_B1HW: Tensor) -> Tensor:
    """Turn activation maps, the channel sums of features, into theta: sum and mean commute.

    Shape: [B, 1, H, W] -> the same
    Reference: Eqn 3; activation maps Sec. III-A
    """
    return activation_B1HW - activation_B1HW.mean((2, 3), keepdim=True)


def sign(theta_B1HW: Tensor, *, tie: int = 1) -> Tensor:
    """Choose the side of the boundary that is foreground: the one with fewer pixels.

    `tie` is the sign where both sides have as many: +1 in the paper, 0 in the authors' code.

    Shape: [B, 1, H, W] -> [B, 1, 1, 1]
    Range: -1, +1 or `tie`
    Reference: Eqn 5
    """
    above_B111 = (theta_B1HW >= 0).sum((1, 2, 3), keepdim=True)
    num_pixels = theta_B1HW[0].numel()
    sign_B111 = torch.sign(num_pixels - 2 * above_B111)
    return torch.where(sign_B111 == 0, tie, sign_B111).to(theta_B1HW.dtype)


def signed_probability(
    theta_B1HW: Tensor, *, size: tuple[int, int] | None = None, tie: int = 1
) -> Tensor:
    """Turn theta into the probability of foreground, at its own size or resized to `size`.

    The sign is taken at theta's own size: resizing moves pixels over the boundary.

    Shape: [B, 1, h, w] -> [B, 1, *size]
    Range: 0..1
    Reference: Eqn 6, before CRF and median filter
    """
    logits_B1HW = theta_B1HW * sign(theta_B1HW, tie=tie)
    if size is not None and logits_B1HW.shape[-2:] != torch.Size(size):
        logits_B1HW = F.interpolate(logits_B1HW, size=size, mode="bilinear", align_corners=False)
    return logits_B1HW.sigmoid()
