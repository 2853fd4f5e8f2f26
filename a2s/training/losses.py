"""Losses of both stages: stage 1 as sums that add up over ranks, stage 2 per image. Pure.

Shape suffixes: B images, H W the map's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from a2s.data.transforms import unpack_keep

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = 1e-4
SSIM_C2 = 9e-4
IOU_EPS = 1e-7
CEL_EPS = 1e-6


class AdbTerms(NamedTuple):
    """One map's share of the stage 1 loss: numerator and number of pixels."""

    numerator: Tensor
    num_kept: Tensor


def adb_terms(theta_B1HW: Tensor, keep_B1HW: Tensor | None, *, alpha: float) -> AdbTerms:
    """Sum over the kept pixels how far their probability lies from the boundary.

    L2 favours pixels that are distinct already, L1 keeps a gradient for the others.

    Shape: [B, 1, H, W] twice -> scalars
    Reference: Eqn 4; dropped pixels Sec. III-A
    """
    distance = (theta_B1HW.float().sigmoid() - 0.5).abs()
    per_pixel = distance.square() + alpha * distance
    if keep_B1HW is None:
        return AdbTerms(per_pixel.sum(), torch.full_like(per_pixel[0, 0, 0, 0], per_pixel.numel()))
    keep = keep_B1HW.to(per_pixel.dtype)
    return AdbTerms((per_pixel * keep).sum(), keep.sum())


class MapTerms(NamedTuple):
    """The terms of the K = 4 maps of a batch, and which images' maps are finite.

    `mean_K` sums the maps' means over the images.
    """

    numerator_K: Tensor
    num_kept_K: Tensor
    finite_B: Tensor
    mean_K: Tensor


def map_terms(
    maps: Sequence[Tensor], valid_B: Tensor, keep_BW: Tensor | None, *, side: int, alpha: float
) -> MapTerms:
    """Loss terms of F, F3, F4, F5; F is resized to the input's size, the others keep their own.

    Padding adds nothing, nor do the pixels that `keep_BW` (`draw_keep_words`) drops.

    Shape: theta [B, 1, h, w] of each map -> numerators, counts and means [4], finite [B]
    Reference: Eqn 4
    """
    full_B1SS = F.interpolate(maps[0], size=(side, side), mode="bilinear", align_corners=False)
    thetas = [full_B1SS, *maps[1:]]
    keeps = [valid_B.view(-1, 1, 1, 1).expand_as(theta) for theta in thetas]
    if keep_BW is not None:
        drawn = unpack_keep(keep_BW, [(theta.shape[2], theta.shape[3]) for theta in thetas])
        keeps = [valid & kept for valid, kept in zip(keeps, drawn, strict=True)]
    terms = [adb_terms(theta, keep, alpha=alpha) for theta, keep in zip(thetas, keeps, strict=True)]
    # A mean is finite where all of its parts are, unless the sum of finite parts overflows.
    means_KB = torch.stack([theta.detach().float().mean((1, 2, 3)) for theta in maps])
    return MapTerms(
        torch.stack([term.numerator for term in terms]),
        torch.stack([term.num_kept for term in terms]),
        means_KB.isfinite().all(dim=0),
        torch.where(valid_B, means_KB, 0).sum(dim=1),
    )


def adb_loss(numerator_K: Tensor, num_kept_K: Tensor, weight_K: Tensor) -> Tensor:
    """Combine the maps' terms, each already summed over all ranks.

    A map without a kept pixel has distance zero: it adds its weight and no gradient.

    Range: with alpha 0.1, 0.7 to 1 times the sum of weights
    Reference: Eqn 4, as one minus the distance so that it is positive
    """
    distance_K = numerator_K / num_kept_K.clamp(min=1)
    return (weight_K.to(distance_K.dtype) * (1 - distance_K)).sum()


def label_loss_per_image(maps: Sequence[Tensor], target_B1SS: Tensor, weight_K: Tensor) -> Tensor:
    """Compare the maps of a head with labels, pixel-wise and by overlap: BCE plus 1 - IoU.

    Labels are averaged down to each map's size, so a target may lie between 0 and 1.

    Shape: theta [B, 1, h, w] of each map, [B, 1, S, S], [K] -> [B]
    Reference: the terms are those of Eqn 12 without SSIM, which is about edges that coarse maps
    lack
    """
    losses = []
    for theta_B1hw in maps:
        logits = theta_B1hw.float()
        target = F.interpolate(target_B1SS.float(), size=logits.shape[2:], mode="area")
        bce_B = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2, 3))
        losses.append(bce_B + 1 - _soft_iou(logits.sigmoid(), target))
    return (torch.stack(losses, dim=1) * weight_K.to(losses[0].dtype)).sum(dim=1)


def _soft_iou(probability_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    inter_B = (probability_B1HW * target_B1HW).sum((1, 2, 3))
    union_B = (probability_B1HW + target_B1HW).sum((1, 2, 3)) - inter_B
    return inter_B / (union_B + IOU_EPS)


class DetectionTerms(NamedTuple):
    """The paper's stage 2 loss of each image, in its three parts."""

    bce_B: Tensor
    ssim_B: Tensor
    iou_B: Tensor


def binarise(label_B1HW: Tensor) -> Tensor:
    """Turn soft labels into hard targets; rectification acts by moving labels across 0.5."""
    return (label_B1HW > 0.5).to(label_B1HW.dtype)


def detection_loss_per_image(logits_B1HW: Tensor, target_B1HW: Tensor) -> DetectionTerms:
    """Compare predicted logits with targets in 0..1, pixel-wise, by structure and by overlap.

    Shape: [B, 1, H, W] twice -> three of [B]
    Reference: Eqn 12; the terms are BASNet's
    """
    logits, target = logits_B1HW.float(), target_B1HW.float()
    probability = logits.sigmoid()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2, 3))
    ssim = 1 - ssim_per_image(probability, target)
    return DetectionTerms(bce, ssim, 1 - _soft_iou(probability, target))


class ConsistencyTerms(NamedTuple):
    """MINet's loss of each image, in its two parts, which count equally."""

    bce_B: Tensor
    cel_B: Tensor


def consistency_loss_per_image(logits_B1HW: Tensor, target_B1HW: Tensor) -> ConsistencyTerms:
    """Compare predicted logits with targets in 0..1, pixel-wise and by what is not shared.

    The consistency-enhanced loss is a quotient of sums over pixels. They are those of one image,
    as it is written for a map and its truth; a quotient of sums over a batch would make an image's
    loss depend on the images that happen to come with it.

    Shape: [B, 1, H, W] twice -> two of [B]
    Range: the second, 0 (equal) to 1 (nothing in common, or no target at all)
    Reference: Pang et al. 2020 (MINet), Sec. 3.4
    """
    logits, target = logits_B1HW.float(), target_B1HW.float()
    probability = logits.sigmoid()
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2, 3))
    shared = (probability * target).sum((1, 2, 3))
    both = (probability + target).sum((1, 2, 3))
    return ConsistencyTerms(bce, (both - 2 * shared) / (both + CEL_EPS))


def ssim_per_image(a_B1HW: Tensor, b_B1HW: Tensor) -> Tensor:
    """Mean structural similarity under a Gaussian window, zeros outside the image.

    Shape: [B, 1, H, W] twice -> [B]
    Range: -1..1, 1 for equal images
    """
    moments = torch.cat((a_B1HW, b_B1HW, a_B1HW * a_B1HW, b_B1HW * b_B1HW, a_B1HW * b_B1HW))
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = _blur(moments).chunk(5)
    var_a, var_b = mean_aa - mean_a.square(), mean_bb - mean_b.square()
    covariance = mean_ab - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a.square() + mean_b.square() + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_a + var_b + SSIM_C2)
    return (luminance * structure).mean((1, 2, 3))


def _blur(x_N1HW: Tensor) -> Tensor:
    """Gaussian blur, one direction after the other.

    A CPU has no fast convolution of a single channel: there the window is a banded matrix, and two
    products of matrices take a twelfth of the time. A GPU waits for memory either way.
    """
    gauss = _gaussian_window(x_N1HW)
    if x_N1HW.is_cuda:
        half = SSIM_WINDOW // 2
        x_N1HW = F.conv2d(x_N1HW, gauss.view(1, 1, 1, -1), padding=(0, half))
        return F.conv2d(x_N1HW, gauss.view(1, 1, -1, 1), padding=(half, 0))
    height, width = x_N1HW.shape[2:]
    return _banded(gauss, height) @ (x_N1HW @ _banded(gauss, width))


def _gaussian_window(like: Tensor) -> Tensor:
    """Weights of the window, which sum to one. Shape: [11]."""
    half = SSIM_WINDOW // 2
    # Computed where it is used: sending eleven numbers to a GPU would wait for it.
    offset = torch.arange(-half, half + 1, dtype=torch.float64, device=like.device)
    gauss = (-(offset * offset) / (2 * SSIM_SIGMA**2)).exp().to(like.dtype)
    return gauss / gauss.sum()


def _banded(window_K: Tensor, size: int) -> Tensor:
    """Symmetric matrix that convolves a row of `size` values with a window, zeros beyond its ends.

    Shape: [K], K odd -> [size, size]
    """
    at = torch.arange(size, device=window_K.device)
    offset = at - at[:, None] + window_K.numel() // 2
    inside = (offset >= 0) & (offset < window_K.numel())
    return torch.where(inside, window_K[offset.clamp(0, window_K.numel() - 1)], 0)
