"""Learning rates of both stages, and defaults that depend on what stage 1 learns from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

ScheduleName = Literal["paper", "official"]


class Schedule(NamedTuple):
    """Milestones, and the number of epochs for which they were chosen."""

    epochs: int
    milestones: tuple[int, ...]


# The authors step their scheduler before each epoch, so their 12 and 16 (15 and 20) already hold
# in the epochs of these numbers: the rate falls after the 11th and 15th (14th and 19th).
STAGE1: Mapping[ScheduleName, Schedule] = {
    "paper": Schedule(20, (10, 16)),
    "official": Schedule(20, (11, 15)),
}
STAGE2: Mapping[ScheduleName, Schedule] = {
    "paper": Schedule(25, (15, 20)),
    "official": Schedule(25, (14, 19)),
}


def scaled_milestones(schedule: Schedule, *, epochs: int) -> tuple[int, ...]:
    """Move a schedule's milestones to where they lie in a run of `epochs`; halves are rounded up.

    Reference: Sec. IV-A
    """
    return tuple(
        (2 * milestone * epochs + schedule.epochs) // (2 * schedule.epochs)
        for milestone in schedule.milestones
    )


DEPENDS_ON_LABELS: Mapping[str, tuple[int, int]] = {
    "heads": (1, 4),
    "label_heads": (0, 2),
    "frame": (0, 64),
}
"""Defaults of stage 1: the paper's, and those of heads that learn from labels."""
