"""Decision boundaries: signed distance theta of each pixel, and the sign of the foreground.

A boundary consists of two choices (`BOUNDARIES`): the weight of each channel, and the origin from
which the weighted sum over channels is measured. Theta is linear in the features, so only their
weighted sum has to be computed.

Shape suffixes: B images, C channels, H W the map's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Boundary(NamedTuple):
    """Two functions that compute theta from features f.

    `weigh`: (mean of f over the image [B, C], learned w [C] or None) -> channel weights [B, C].
    `measure`: (weighted sum [B, 1, H, W], its origin or None) -> theta. DB1's origin is the mean
    over the training set; a head that learns from labels learns it.
    """

    weigh: Callable[[Tensor, Tensor | None], Tensor]
    measure: Callable[[Tensor, Tensor | None], Tensor]


def decide(
    f_BCHW: Tensor,
    boundary: Boundary,
    *,
    learned_C: Tensor | None = None,
    origin: Tensor | None = None,
) -> Tensor:
    """Compute theta of each pixel; DB4 needs `learned_C`, DB1 `origin`, `trained` both.

    Shape: [B, C, H, W] -> theta [B, 1, H, W]
    Reference: Sec. IV-E
    """
    dtype = torch.promote_types(f_BCHW.dtype, torch.float32)
    weight_BC = boundary.weigh(f_BCHW.to(dtype).mean((2, 3)), learned_C)
    return boundary.measure(weighted_sum(f_BCHW, weight_BC), origin)


def weighted_sum(x_BCHW: Tensor, weight_BC: Tensor) -> Tensor:
    """Sum the channels with these weights.

    Never in bfloat16, even under autocast: only the difference of this sum from its mean matters,
    and bfloat16 rounds a sum of 50 to a multiple of 0.25.

    Shape: [B, C, H, W], [B, C] -> [B, 1, H, W]
    """
    dtype = torch.promote_types(x_BCHW.dtype, torch.float32)
    with torch.autocast(x_BCHW.device.type, enabled=False):
        sum_B1P = torch.bmm(weight_BC[:, None].to(dtype), x_BCHW.flatten(2).to(dtype))
    return sum_B1P.view(-1, 1, *x_BCHW.shape[2:])


def centred(activation_B1HW: Tensor) -> Tensor:
    """Subtract the image's mean from weighted sums of features: sum and mean commute.

    Shape: [B, 1, H, W] -> the same
    Reference: Eqn 3; activation maps Sec. III-A
    """
    return activation_B1HW - activation_B1HW.mean((2, 3), keepdim=True)


def _equally(mean_BC: Tensor, learned_C: Tensor | None) -> Tensor:
    del learned_C
    return torch.ones_like(mean_BC)


def _by_mean(mean_BC: Tensor, learned_C: Tensor | None) -> Tensor:
    del learned_C
    return mean_BC


def _by_learned(mean_BC: Tensor, learned_C: Tensor | None) -> Tensor:
    assert learned_C is not None, "this boundary has learned weights"
    return learned_C.to(mean_BC.dtype).expand_as(mean_BC)


def _from_image_mean(activation_B1HW: Tensor, origin: Tensor | None) -> Tensor:
    del origin
    return centred(activation_B1HW)


def _from_origin(activation_B1HW: Tensor, origin: Tensor | None) -> Tensor:
    assert origin is not None, "this boundary has an origin"
    return activation_B1HW - origin


def _from_zero(activation_B1HW: Tensor, origin: Tensor | None) -> Tensor:
    del origin
    return activation_B1HW


BOUNDARIES = {
    "db1": Boundary(_equally, _from_origin),
    "db2": Boundary(_by_mean, _from_zero),
    "db3": Boundary(_by_mean, _from_image_mean),
    "db4": Boundary(_by_learned, _from_image_mean),
    "adb": Boundary(_equally, _from_image_mean),
    "trained": Boundary(_by_learned, _from_origin),
}
"""DB1 to DB5 of Fig. 9, of which the adaptive boundary `adb` is the paper's method; and `trained`,
that of heads that learn from labels: what is above 0 is salient, without a rule for the sign."""


def sign(theta_B1HW: Tensor, *, tie: int = 1) -> Tensor:
    """Choose the foreground side of the boundary: the side with fewer pixels.

    `tie` is the sign if both sides have equally many: +1 in the paper, 0 in the authors' code. With
    0, pixels on the boundary count as below it, as in the authors' code.

    Shape: [B, 1, H, W] -> [B, 1, 1, 1]
    Range: -1, +1 or `tie`
    Reference: Eqn 5
    """
    above_B1HW = theta_B1HW >= 0 if tie else theta_B1HW > 0
    above_B111 = above_B1HW.sum((1, 2, 3), keepdim=True)
    num_pixels = theta_B1HW[0].numel()
    sign_B111 = torch.sign(num_pixels - 2 * above_B111)
    return torch.where(sign_B111 == 0, tie, sign_B111).to(theta_B1HW.dtype)
