"""The jobs of `soak.py`: commands on drawn scenes, the files they write, who can be killed.

They run in a folder in which `scenes` and the results of earlier jobs lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MAIN, GROUP, TERM, INT = "main", "group", "SIGTERM", "SIGINT"
WORKER, ACTOR, RAYLET, SERVER = "worker", "actor", "raylet", "server"
ALL = (MAIN, GROUP, TERM, INT)
WITH_RAY = (*ALL, WORKER, RAYLET)
TITLES = {
    WORKER: (b"ray::_run", b"ray::IDLE"),
    ACTOR: (b"ray::_ModelHost",),
    RAYLET: (b"raylet/raylet",),
    SERVER: (b"-m a2s review",),
}
"""Parts of the command lines of those that are not started by the soak itself."""


@dataclass(frozen=True)
class Job:
    """A command that writes the folder `name`; `before` (names of jobs) must have run."""

    name: str
    arguments: tuple[str, ...]
    """Of `python`, from `-m` or a script on."""
    appears: tuple[str, ...]
    """Patterns of files; a kill when one of them appears hits between two writes."""
    before: tuple[str, ...] = ()
    victims: tuple[str, ...] = ALL
    """Who can be killed."""
    begins_as: str = ""
    """The job whose results it changes; it works on a copy."""
    on_cluster: bool = False
    """Whether it joins a Ray cluster with an (alleged) GPU, so that an actor holds the model."""


_TRAIN = ("--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "4")
_LABELLED = ("--data", "data", "--labels", "labels")
_STAGE2 = ("stage2", *_LABELLED, *_TRAIN, "--epochs", "3", "--warm-epochs", "1")
_OFTEN = ("--commit-every", "2", "--loader-workers", "1", "--log-every", "1")
_ANY = ("--max-failure-rate", "1")
_CHECKPOINT = ("checkpoints/*", "checkpoints/*/*", "commits/*.json", "*.tmp")


def _a2s(*arguments: str) -> tuple[str, ...]:
    return ("-m", "a2s", *arguments)


def _shard(name: str, workers: str, victims: tuple[str, ...]) -> Job:
    given = ("shard", "scenes/train", "--out", name, "--shard-size", "5", "--workers", workers)
    patterns = ("shard-*.tar", "shard-*.parquet", "shard-*.json", "*.tmp")
    return Job(name, _a2s(*given), patterns, (), victims)


def _label(name: str, workers: str, victims: tuple[str, ...], *, on_cluster: bool = False) -> Job:
    given = ("label", "--model", "stage1", "--data", "data", "--out", name, *_ANY)
    more = ("--workers", workers, "--batch-size", "2")
    patterns = ("shard-*.tar", "shard-*.parquet", "shard-*.json", "*.tmp")
    needed = ("data", "stage1")
    return Job(name, _a2s(*given, *more), patterns, needed, victims, on_cluster=on_cluster)


def _predict(name: str, workers: str, victims: tuple[str, ...]) -> Job:
    given = ("predict", "scenes/test/images", "--model", "stage2", "--out", name, "--cutout")
    more = (*_ANY, "--workers", workers, "--batch-size", "2")
    return Job(name, _a2s(*given, *more), ("*.png", "*.tmp"), ("stage2",), victims)


def _hma(name: str, workers: str, victims: tuple[str, ...]) -> Job:
    given = ("hma", "--run", name, *_LABELLED, "--workers", workers)
    patterns = ("averages/*/*.rows", "labels/*/*.rows", "averages/*/*", "checkpoints/*", "*.tmp")
    return Job(name, _a2s(*given), patterns, ("waiting",), victims, begins_as="waiting")


def jobs() -> list[Job]:
    """All jobs, in the order in which they need each other."""
    stage1 = ("stage1", "--data", "data", "--out", "stage1", *_TRAIN, "--epochs", "3", *_OFTEN)
    evaluate = ("evaluate", "--pred", "preds", "--truth", "scenes/test/masks", "--out", "scores")
    report = ("report", "stage2", "labels", "--out", "report/report.html")
    return [
        _shard("data", "0", ALL),
        _shard("data-ray", "2", WITH_RAY),
        Job("stage1", _a2s(*stage1, "--cache-gib", "0"), _CHECKPOINT, ("data",)),
        _label("labels", "0", ALL),
        _label("labels-ray", "2", WITH_RAY),
        _label("labels-actor", "auto", (MAIN, GROUP, WORKER, ACTOR, RAYLET), on_cluster=True),
        Job(
            "stage2",
            _a2s(*_STAGE2, "--out", "stage2", *_OFTEN),
            ("labels/*/*.rows", *_CHECKPOINT, "rectified/shard-*.tar"),
            ("data", "labels"),
        ),
        Job(
            "waiting",
            _a2s(*_STAGE2, "--out", "waiting", *_OFTEN, "--rectify", "hma"),
            _CHECKPOINT,
            ("data", "labels"),
        ),
        _hma("averaged", "0", ALL),
        _hma("averaged-ray", "2", WITH_RAY),
        _predict("preds", "0", ALL),
        _predict("preds-ray", "2", WITH_RAY),
        Job("scores", _a2s(*evaluate, "--workers", "0"), ("*.json", "*.parquet"), ("preds",)),
        Job("report", _a2s(*report), ("*", "*.tmp"), ("stage2", "labels")),
        Job(
            "reviewed",
            ("soak_review.py", "reviewed", "data"),
            ("*.tmp",),
            ("data", "labels"),
            (SERVER, GROUP),
            begins_as="labels",
        ),
    ]


def with_those_before(chosen: Sequence[Job]) -> list[Job]:
    """Jobs and those that they need, in order."""
    names = {job.name for job in chosen}
    for job in reversed(jobs()):
        if job.name in names:
            names.update(job.before)
    return [job for job in jobs() if job.name in names]
