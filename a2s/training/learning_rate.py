"""Learning rate of an epoch, in both stages. Pure."""

from __future__ import annotations


def learning_rate(epoch: int, *, lr: float, milestones: tuple[int, ...]) -> float:
    """Rate of an epoch (the first is 1): a tenth after every milestone. Reference: Sec. IV-A."""
    return lr / float(10 ** sum(epoch > milestone for milestone in milestones))
