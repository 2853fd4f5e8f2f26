"""The jobs of `soak.py`: commands on drawn scenes, the files they write, who can be killed.

They run in a folder in which `scenes` and the results of earlier jobs lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAIN, GROUP, TERM, INT, WORKER, RAYLET = "main", "group", "SIGTERM", "SIGINT", "worker", "raylet"


@dataclass(frozen=True)
class Job:
    """A command that writes `out`; `before` (names of jobs) must have run."""

    name: str
    arguments: tuple[str, ...]
    appears: tuple[str, ...]
    """Patterns of files; a kill when one of them appears hits between two writes."""
    before: tuple[str, ...] = ()
    ray: bool = False

    @property
    def victims(self) -> tuple[str, ...]:
        """Who can be killed."""
        return (MAIN, GROUP, TERM, INT, *((WORKER, RAYLET) if self.ray else ()))


_TRAIN = ("--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "4")
_STAGE2 = ("stage2", "--data", "data", "--labels", "labels", *_TRAIN, "--epochs", "3")
_OFTEN = ("--commit-every", "2", "--loader-workers", "1", "--log-every", "1")
_ANY = ("--max-failure-rate", "1")


def jobs() -> list[Job]:
    """All jobs, in the order in which they need each other."""

    def label(name: str, workers: str) -> Job:
        given = ("label", "--model", "stage1", "--data", "data", "--out", name, *_ANY)
        more = ("--workers", workers, "--batch-size", "2")
        patterns = ("shard-*.tar", "shard-*.parquet", "shard-*.json", "*.tmp")
        return Job(name, (*given, *more), patterns, ("data", "stage1"), workers != "0")

    def shard(name: str, workers: str) -> Job:
        given = ("shard", "scenes/train", "--out", name, "--shard-size", "5")
        patterns = ("shard-*.tar", "shard-*.parquet", "shard-*.json", "*.tmp")
        return Job(name, (*given, "--workers", workers), patterns, (), workers != "0")

    stage1 = ("stage1", "--data", "data", "--out", "stage1", *_TRAIN, "--epochs", "3", *_OFTEN)
    predict = ("predict", "scenes/test/images", "--model", "stage2", "--out", "preds", "--cutout")
    evaluate = ("evaluate", "--pred", "preds", "--truth", "scenes/test/masks", "--out", "scores")
    checkpoint = ("checkpoints/*", "checkpoints/*/*", "commits/*.json", "*.tmp")
    return [
        shard("data", "0"),
        shard("data-ray", "2"),
        Job("stage1", (*stage1, "--cache-gib", "0"), checkpoint, ("data",)),
        label("labels", "0"),
        label("labels-ray", "2"),
        Job(
            "stage2",
            (*_STAGE2, "--out", "stage2", "--warm-epochs", "1", *_OFTEN),
            ("labels/*/*.rows", *checkpoint, "rectified/shard-*.tar"),
            ("data", "labels"),
        ),
        Job("preds", (*predict, *_ANY, "--workers", "0"), ("*.png", "*.tmp"), ("stage2",)),
        Job("scores", (*evaluate, "--workers", "0"), ("*.json", "*.parquet"), ("preds",)),
    ]


def with_those_before(chosen: Sequence[Job]) -> list[Job]:
    """Jobs and those that they need, in order."""
    names = {job.name for job in chosen}
    for job in reversed(jobs()):
        if job.name in names:
            names.update(job.before)
    return [job for job in jobs() if job.name in names]
