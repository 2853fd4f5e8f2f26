"""Which labels an epoch reads, and which it leaves to the next one. Pure, without torch."""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

Rule = Literal["olr", "hma"]


def lambda_at(epoch: int, *, lam: float, warm_epochs: int) -> float:
    """Return the share of the old label that `epoch` (counted from 1) keeps.

    Range: 1 in the first `warm_epochs` epochs, which leave labels as they are, then `lam`
    Reference: Eqn 14; Sec. III-B
    """
    assert epoch >= 1, "epochs are counted from 1"
    return 1.0 if epoch <= warm_epochs else lam


def generation_after(epoch: int, *, warm_epochs: int) -> int:
    """The generation that `a2s hma` makes when `epoch` is over; 0: none yet, it was a warm one."""
    return max(0, epoch - warm_epochs)


def label_schedule(
    epochs: int, *, rule: Rule, lam: float, warm_epochs: int
) -> tuple[list[float], list[int]]:
    """Share of the old label that epoch e keeps [e - 1], and the generation that it reads [e - 1].

    Generation 0 is the label shards. Labels change after every epoch but the warm ones: under `olr`
    the epoch itself writes the next generation, unless lambda is 1; under `hma` it leaves labels
    alone, and the next generation is made when it is over. The list of generations has one entry
    more than there are epochs: the last is what stage 2 leaves behind.
    """
    if rule == "hma":
        numbers = [generation_after(epoch, warm_epochs=warm_epochs) for epoch in range(epochs + 1)]
        return [1.0] * epochs, numbers
    lam_by_epoch = [
        lambda_at(epoch, lam=lam, warm_epochs=warm_epochs) for epoch in range(1, epochs + 1)
    ]
    return lam_by_epoch, [*accumulate((share < 1 for share in lam_by_epoch), initial=0)]
