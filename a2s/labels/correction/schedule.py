"""Label generation that each epoch of stage 2 reads and writes; schedule of lambda. Pure.

Generation 0 is the label shards. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

Rule = Literal["olr", "hma"]


def lambda_at(epoch: int, *, lam: float, warm_epochs: int) -> float:
    """Lambda of `epoch` (counted from 1): the weight of the old label in the update.

    Range: 1 in the first `warm_epochs` epochs (labels do not change), then `lam`
    Reference: Eqn 14; Sec. III-B
    """
    assert epoch >= 1, "epochs are counted from 1"
    return 1.0 if epoch <= warm_epochs else lam


def generation_after(epoch: int, *, warm_epochs: int) -> int:
    """Label generation that `a2s hma` makes after `epoch`; 0 (none) after a warm-up epoch."""
    return max(0, epoch - warm_epochs)


@dataclass(frozen=True)
class LabelSchedule:
    """Label generation that each epoch reads, and lambda of each epoch.

    With `olr` an epoch writes the next generation itself, unless lambda is 1. With `hma` epochs
    do not change labels; `a2s hma` makes the next generation between epochs.
    """

    rule: Rule
    lam_by_epoch: tuple[float, ...]
    """Lambda of epoch e at index e - 1."""
    generation_by_epoch: tuple[int, ...]
    """Generation that epoch e reads, at index e - 1; the last entry is the final generation."""

    @staticmethod
    def of(epochs: int, *, rule: Rule, lam: float, warm_epochs: int) -> LabelSchedule:
        """Schedule of a run with `epochs` epochs."""
        if rule == "hma":
            numbers = (generation_after(e, warm_epochs=warm_epochs) for e in range(epochs + 1))
            return LabelSchedule(rule, (1.0,) * epochs, tuple(numbers))
        lams = [
            lambda_at(epoch, lam=lam, warm_epochs=warm_epochs) for epoch in range(1, epochs + 1)
        ]
        return LabelSchedule(
            rule, tuple(lams), (*accumulate((lam < 1 for lam in lams), initial=0),)
        )

    def lacks_labels(self, state: Mapping[str, Any]) -> bool:
        """Whether the generation that the next epoch reads does not exist yet.

        False for a state of another stage or of more epochs: its folder was made with other
        settings, which is said where the folder is claimed.
        """
        epoch = state["epoch"]
        if "generation" not in state or epoch >= len(self.generation_by_epoch):
            return False
        return bool(state["generation"] != self.generation_by_epoch[epoch])

    def last_epoch(self, state: Mapping[str, Any], *, at_most: int) -> int:
        """Last epoch, at most `at_most`, that can be trained with the existing labels."""
        if self.rule == "olr":
            return at_most
        for epoch in range(state["epoch"], at_most):
            if self.generation_by_epoch[epoch] != state["generation"]:
                return epoch
        return at_most
