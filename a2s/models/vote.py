"""Votes of several heads: their mean map, how far they agree, and which of them a majority keeps.

Pure. Shape suffixes: B images, K heads, H W a map's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from a2s.models.adaptive import FACTOR, HIGHEST, LOWEST
from a2s.models.boundary import sign

_SMALLEST = 1e-6
"""Probabilities stay this far from 0 and 1, so that their log-odds are finite."""


def probabilities(theta_B1HW: Tensor, *, sign_tie: int | None) -> Tensor:
    """Turn theta into the probability of foreground; with `sign_tie` None its sign is known.

    Shape: [B, 1, H, W] -> the same
    Reference: Eqn 5
    """
    if sign_tie is None:
        return theta_B1HW.float().sigmoid()
    return (theta_B1HW * sign(theta_B1HW, tie=sign_tie)).float().sigmoid()


def mean_vote(kinds: Sequence[Sequence[Tensor]]) -> Tensor:
    """Average probabilities of the same images over the maps of each kind, then over the kinds.

    Returns log-odds. A kind without maps does not count.

    Shape: [B, 1, H, W] each -> the same
    """
    means = [torch.stack(list(maps)).mean(dim=0) for maps in kinds if maps]
    return torch.logit(torch.stack(means).mean(dim=0), eps=_SMALLEST)


def agreement(probability_KBHW: Tensor, valid_B: Tensor) -> Tensor:
    """Sum over the valid images how far every pair of heads agrees, and count the images.

    Two heads agree as their foregrounds overlap: intersection over union. Foreground is what
    exceeds the adaptive boundary, as in labels. An image in which both find nothing does not
    count: heads that never find anything agree on nothing.

    Shape: [K, B, H, W], [B] -> sums and counts [2, K, K], float64
    """
    probability_KBP = probability_KBHW.flatten(2)
    boundary_KB1 = (FACTOR * probability_KBP.mean(2, keepdim=True)).clamp(LOWEST, HIGHEST)
    salient_KBP = (probability_KBP > boundary_KB1).double()
    inter_BKK = torch.einsum("kbp,lbp->bkl", salient_KBP, salient_KBP)
    area_BK = salient_KBP.sum(2).T
    union_BKK = area_BK[:, :, None] + area_BK[:, None, :] - inter_BKK
    counts_BKK = (union_BKK > 0) & valid_B.view(-1, 1, 1)
    iou_BKK = torch.where(counts_BKK, inter_BKK / union_BKK.clamp(min=1), 0.0)
    return torch.stack([iou_BKK.sum(0), counts_BKK.double().sum(0)])


def majority(
    agreement_KK: Tensor, *, at_least: float, anchored: Sequence[int] = ()
) -> tuple[int, ...]:
    """Find the largest set of heads of which every pair agrees; ties go to the better mean.

    Returns nothing unless the set holds more than half of the heads; half of them is enough if
    they are the `anchored` ones, which know what an object is from labels. A single head agrees
    with itself.

    Shape: mean agreement [K, K] -> head numbers, ascending
    """
    heads = range(len(agreement_KK))
    for size in range(len(heads), (len(heads) - 1) // 2, -1):
        found: list[tuple[float, tuple[int, ...]]] = []
        for chosen in combinations(heads, size):
            if 2 * size == len(heads) and chosen != tuple(anchored):
                continue
            pairs = [float(agreement_KK[a, b]) for a, b in combinations(chosen, 2)]
            if all(pair >= at_least for pair in pairs):
                found.append((sum(pairs), chosen))
        if found:
            return max(found)[1]
    return ()
