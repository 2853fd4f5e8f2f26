"""Seconds of labelling, summed over chunks, by stage and by group of workers."""

from __future__ import annotations

from dataclasses import dataclass, field

from a2s.labels.making.chunk import STAGES, Labelled
from a2s.parallel import tasks
from a2s.parallel.bottleneck import WorkerGroup
from a2s.parallel.gpu_thread import PREFETCH_THREADS


@dataclass
class StageTimes:
    """Seconds of one run; shards that were finished earlier do not count."""

    wall_sec: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    device_seconds: dict[str, float] = field(default_factory=dict)
    tally: tasks.Tally = field(default_factory=tasks.Tally)

    def add(self, labelled: Labelled) -> None:
        """Count a finished chunk."""
        for ours, theirs in (
            (self.seconds, labelled.seconds),
            (self.device_seconds, labelled.device_seconds),
        ):
            for stage, sec in theirs.items():
                ours[stage] = ours.get(stage, 0.0) + sec

    def groups(self, threads: int) -> list[WorkerGroup]:
        """The groups of workers: CPU processes or `threads` threads, and GPU actors."""
        tally, device = self.tally, dict(self.device_seconds)
        workers = WorkerGroup(
            "CPU workers",
            threads or max(tally.max_workers, 1),
            dict(self.seconds),
            tally.worker_sec,
        )
        if not device:
            return [workers]
        num_devices = max(tally.num_actors, 1)
        device_sec = tally.actor_sec or self.wall_sec
        # If all images were damaged, reading was the only work.
        reading = {"decode": device.pop("decode", 0.0)}
        readers = WorkerGroup(
            "readers", PREFETCH_THREADS * num_devices, reading, PREFETCH_THREADS * device_sec
        )
        device.pop("queue", None)
        device.setdefault("network", 0.0)
        return [WorkerGroup("GPU processes", num_devices, device, device_sec), readers, workers]
