"""Loss of one step of stage 1, of all heads: from the boundary (Eqn 4), or from labels.

B images of one rank, K maps of a head, H heads, S side of the network's input. Sums are taken over
all ranks before they are divided, so gradients do not depend on the number of ranks. DDP averages
gradients over ranks, so what goes backward is multiplied by their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from a2s.models.heads import ActivationMaps
from a2s.parallel import ranks
from a2s.training.losses import MapTerms, adb_loss, label_loss_per_image


class HeadsLoss(NamedTuple):
    """Loss of a step: what goes backward on this rank, and the value over all ranks.

    `mean_HK` sums theta over the images of all ranks, for DB1; None with labels.
    """

    backward: Tensor
    value: Tensor
    finite_B: Tensor
    mean_HK: Sequence[Tensor] | None


def boundary_loss(
    heads: Sequence[ActivationMaps],
    terms_of: Callable[[ActivationMaps], MapTerms],
    weight_K: Tensor,
) -> HeadsLoss:
    """Sum over heads of the distances of kept pixels from the boundary.

    Reference: Eqn 4
    """
    terms_H = [terms_of(maps) for maps in heads]
    local = torch.cat([part for t in terms_H for part in (t.numerator_K, t.num_kept_K, t.mean_K)])
    backward, value = torch.zeros_like(local[0]), torch.zeros_like(local[0])
    means = []
    for terms, sums_3K in zip(terms_H, ranks.all_sum(local).chunk(len(terms_H)), strict=True):
        numerator_K, num_kept_K, mean_K = sums_3K.chunk(3)
        value = value + adb_loss(numerator_K, num_kept_K, weight_K)
        share_K = ranks.world() * terms.numerator_K
        backward = backward + adb_loss(share_K, num_kept_K.float(), weight_K)
        means.append(mean_K)
    finite_B = torch.stack([terms.finite_B for terms in terms_H]).all(dim=0)
    return HeadsLoss(backward, value, finite_B, means)


def total(first: HeadsLoss, second: HeadsLoss) -> HeadsLoss:
    """Add the losses of two groups of heads."""
    return HeadsLoss(
        first.backward + second.backward,
        first.value + second.value,
        first.finite_B & second.finite_B,
        first.mean_HK,
    )


def label_loss(
    heads: Sequence[ActivationMaps],
    target_B1SS: Tensor,
    valid_B: Tensor,
    weight_K: Tensor,
    *,
    num_images: int,
) -> HeadsLoss:
    """Sum over heads of the mean loss against labels; `num_images` are those of all ranks."""
    per_head = [label_loss_per_image(maps, target_B1SS, weight_K) for maps in heads]
    loss_B = torch.stack(per_head).sum(dim=0)
    sum_B = torch.where(valid_B, loss_B, 0)
    backward = sum_B.sum() * (ranks.world() / num_images)
    value = ranks.all_sum(sum_B.detach().sum()[None])[0] / num_images
    return HeadsLoss(backward, value, loss_B.detach().isfinite(), None)
