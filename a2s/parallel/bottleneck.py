"""Find the bottleneck of a pipeline from the seconds that its stages worked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOW_BUSY_SHARE = 0.5
"""If all groups are less busy than this, none is the bottleneck (short runs, slow reading)."""


@dataclass(frozen=True)
class WorkerGroup:
    """Processes of one kind, and the time that they worked.

    `stage_sec` is the work in each stage, in seconds, summed over the processes. `available_sec` is
    their number times the seconds that they existed. The difference is waiting time.
    """

    name: str
    processes: int
    stage_sec: Mapping[str, float]
    available_sec: float

    @property
    def busy(self) -> float:
        """Share of the available time that the processes worked. Range: 0..1."""
        return min(1.0, sum(self.stage_sec.values()) / max(self.available_sec, 1e-9))

    @property
    def waiting_sec(self) -> float:
        """Average seconds that one process waited."""
        return (1 - self.busy) * self.available_sec / max(self.processes, 1)


def describe(num_images: int, wall_sec: float, groups: list[WorkerGroup]) -> list[str]:
    """Report as lines of text: images/s, stages and waiting of each group, bottleneck."""
    rate = num_images / max(wall_sec, 1e-9)
    lines = [f"{num_images:,} images in {wall_sec:.1f} s, {rate:.2f} images/s"]
    for group in groups:
        stages = ", ".join(
            f"{stage} {num_images / sec:.1f} images/s"
            for stage, sec in group.stage_sec.items()
            if sec > 0
        )
        lines.append(
            f"{group.processes} {group.name}: {stages} (each alone); busy {group.busy:.0%}, "
            f"waited {group.waiting_sec:.1f} s"
        )
    lines.append(f"bottleneck: {bottleneck(groups)}")
    return lines


def bottleneck(groups: list[WorkerGroup]) -> str:
    """Name the longest stage of the busiest group."""
    group = max(groups, key=lambda group: group.busy)
    stage, sec = max(group.stage_sec.items(), key=lambda item: item[1])
    share = sec / max(sum(group.stage_sec.values()), 1e-9)
    text = f"{stage} ({share:.0%} of the work of the {group.name})"
    return (
        text
        if group.busy >= LOW_BUSY_SHARE
        else f"none, all wait most of the time; the most is {text}"
    )


def record(num_images: int, wall_sec: float, groups: list[WorkerGroup]) -> dict[str, object]:
    """Report as a record for `metrics.jsonl`."""
    values: dict[str, object] = {
        "num_images": num_images,
        "wall_sec": round(wall_sec, 3),
        "images_per_sec": round(num_images / max(wall_sec, 1e-9), 3),
        "bottleneck": bottleneck(groups),
    }
    for group in groups:
        values[group.name] = {
            "processes": group.processes,
            "busy_share": round(group.busy, 4),
            "waiting_sec": round(group.waiting_sec, 3),
            "stage_sec": {stage: round(sec, 3) for stage, sec in group.stage_sec.items()},
        }
    return values
