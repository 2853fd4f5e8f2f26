"""Map a function over items in this process or as Ray tasks. The only importer of ray.

Ray is imported only if it is used, with the first result. Callers keep all progress in files, not
in object references, so a killed job can be rerun.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Literal, TypeVar

from a2s.errors import ConfigError
from a2s.parallel import ray_session, ray_signals
from a2s.parallel.children import map_in_children
from a2s.parallel.division import Again, Division, halves
from a2s.parallel.in_process import map_in_process, one_core
from a2s.parallel.model_actors import ModelStage
from a2s.parallel.tasks import Isolation, Tally, TaskScheduler
from a2s.storage.machine import num_cpus
from a2s.storage.objects import elsewhere

__all__ = [
    "Again",
    "Division",
    "Isolation",
    "ModelStage",
    "Tally",
    "halves",
    "has_gpu",
    "map_items",
    "num_cluster_cpus",
    "num_cpus",
    "num_gpus",
    "resolve_workers",
    "session",
]

T = TypeVar("T")
R = TypeVar("R")

AUTO_MIN_IMAGES = 64
FEW_CPUS, FEW_CPUS_MIN_IMAGES = 2, 5_000
"""On two CPUs threads label 1000 images in 20.7 s, Ray's workers in 24.8 s, four of which are its
start (benchmarks/results/label_factory.json, label_ray.json). From 5,000 on that is a few percent.
"""
_EXHAUSTED = object()


def resolve_workers(
    workers: int | Literal["auto"],
    num_images: int,
    *,
    ray_address: str | None = None,
    has_threads: bool = False,
) -> int | None:
    """Resolve the flag `--workers`.

    `auto` is 0 (no Ray) below 64 images or if Ray is not installed, else the number of CPUs. Where
    threads of this process do the same work (`has_threads`), it is 0 on two CPUs below 5,000
    images. On a cluster `auto` is None: follow the cluster's CPU count as it scales.

    Raises: ConfigError for a negative number.
    """
    if workers == "auto" and ray_address is not None:
        return None
    if workers == "auto":
        by_threads = has_threads and num_cpus() <= FEW_CPUS
        small = num_images < (FEW_CPUS_MIN_IMAGES if by_threads else AUTO_MIN_IMAGES)
        return 0 if small or importlib.util.find_spec("ray") is None else num_cpus()
    if workers < 0:
        raise ConfigError(f"--workers {workers}: give 0 (no Ray), a positive number, or auto")
    return workers


def num_gpus() -> int:
    """GPUs in the active Ray session."""
    import ray

    cluster: Any = ray
    return int(cluster.cluster_resources().get("GPU", 0))


def has_gpu(ray_address: str | None = None) -> bool:
    """Whether networks can live on a GPU: of the cluster that was joined, or of this machine."""
    if ray_address is not None:
        return num_gpus() > 0
    import torch

    return torch.cuda.is_available()


def num_cluster_cpus() -> int:
    """CPUs in the active Ray session, at least 1."""
    import ray

    cluster: Any = ray
    return max(1, int(cluster.cluster_resources().get("CPU", 0)))


def map_items(
    fn: Callable[..., R],
    items: Iterable[T],
    *,
    workers: int | None,
    common: tuple[Any, ...] = (),
    model_stage: ModelStage | None = None,
    threads: int = 0,
    children: int = 0,
    ray_address: str | None = None,
    isolation: Isolation = contextlib.nullcontext,
    division: Division[T, R] | None = None,
    deadline_sec: float = 900.0,
    retries: int = 2,
    name: Callable[[T], str] = str,
    note: Callable[[str], None] | None = None,
    tally: Tally | None = None,
) -> Generator[R, None, None]:
    """Yield `fn(item, *common)` for every item, in order of completion.

    With `model_stage` it yields `fn(item, model_stage.build()(item), *common)`. Back-pressure:
    items are drawn lazily, and at most two per worker are in flight. `common` is sent to the
    cluster once. `workers` None follows the number of CPUs of the cluster.

    A task is retried `retries` times if its process dies, once if it exceeds `deadline_sec`, and
    without limit if its node is lost. A straggler gets a speculative copy; the first result counts.
    So `fn` must be deterministic and idempotent, importable on the workers, and keep no state
    between calls. With `workers` 0 there are no retries: this thread runs `fn`, or `threads`
    threads that use one core each; or `children` processes of this one, which needs `division`.

    `isolation()` makes a context in which `fn` survives what its images do to their decoders; it is
    entered once in each process. With `division` an item whose processes die all the same, such as
    for lack of memory, is divided until the image is found that does it, and that one given up.

    Raises: exceptions of `fn` unchanged; A2SError naming the item after the last retry.
    """
    tally = tally if tally is not None else Tally()
    note = note or (lambda text: print(text, file=sys.stderr))
    if workers == 0 and children:
        assert division is not None
        yield from map_in_children(
            fn,
            items,
            common,
            number=children,
            isolation=isolation,
            division=division,
            name=name,
            note=note,
            tally=tally,
        )
        return
    if workers == 0:
        with isolation():
            yield from map_in_process(fn, items, common, model_stage, threads, tally)
        return
    gathered: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if ray_address is not None and (job := elsewhere.job()) is not None:
        fn, gathered = functools.partial(elsewhere.shared, job, fn), elsewhere.gathered()
        if model_stage is not None:
            model_stage = ModelStage(functools.partial(elsewhere.sharing, job, model_stage.build))
    with session(workers=workers, ray_address=ray_address), gathered:
        import ray

        scheduler = TaskScheduler(
            ray,
            _run,
            _ModelHost,
            (fn, *common),
            isolation=isolation,
            division=division,
            model_stage=model_stage,
            workers=workers,
            tally=tally,
            note=note,
        )
        source = iter(items)
        with contextlib.closing(scheduler):
            while True:
                while scheduler.has_room() and (item := next(source, _EXHAUSTED)) is not _EXHAUSTED:
                    scheduler.submit(item)
                tally.max_in_flight = max(tally.max_in_flight, scheduler.num_items)
                if not scheduler.num_items:
                    return
                yield from scheduler.wait(deadline_sec, retries=retries, name=name)


_entered: dict[str, contextlib.AbstractContextManager[object]] = {}


def _enter_for_good(isolation: Isolation) -> None:
    """Enter an isolation until this process ends: decoders are started once, not for each task."""
    name = f"{isolation.__module__}.{isolation.__qualname__}"
    if name not in _entered:
        _entered[name] = isolation()
        _entered[name].__enter__()


def _run(isolation: Isolation, fn: Callable[..., R], item: Any, *rest: Any) -> tuple[str, float, R]:
    """Task that runs in a worker: return node id, seconds, and the result of `fn`."""
    import ray

    one_core()
    _enter_for_good(isolation)
    started = time.monotonic()
    result = fn(item, *rest)
    return ray.get_runtime_context().get_node_id(), time.monotonic() - started, result


class _ModelHost:
    """Actor that builds a `ModelStage` once and runs it; several threads call it."""

    def __init__(self, isolation: Isolation, build: Callable[[], Callable[[Any], Any]]) -> None:
        self.isolation = isolation
        self.build = build
        self.step: Callable[[Any], Any] | None = None
        self.lock = threading.Lock()

    def ping(self) -> None:
        """Return once the actor's process has started."""

    def prepare(self, item: Any) -> Any:
        # Not in __init__: the driver would see an error there as a dead actor, not as the error.
        with self.lock:
            if self.step is None:
                _enter_for_good(self.isolation)
                self.step = self.build()
        return self.step(item)


@contextlib.contextmanager
def session(*, workers: int | None, ray_address: str | None = None) -> Iterator[None]:
    """Run Ray inside the block; use a running session if there is one, and leave it running.

    Raises: ConfigError if ray is not installed or the cluster cannot be reached.
    """
    try:
        with ray_signals.import_of_ray():
            import ray
    except ImportError as error:
        message = "--workers above 0 needs Ray: pip install 'ray>=2.52', or give --workers 0"
        raise ConfigError(message) from error
    if ray.is_initialized():
        yield
        return
    ray_signals.forget()
    started_before = ray_session.children()
    try:
        mark = ""
        with ray_signals.deferred():
            if ray_address is None:
                mark = ray_session.start_local(ray, num_cpus() if workers is None else workers)
            else:
                ray_session.join(ray, ray_address)
        with ray_signals.unchanged(), ray_session.raylet_watched(mark):
            yield
    finally:
        with ray_signals.deferred():
            ray_processes = ray_session.descendants(ray_session.children() - started_before)
            ray.shutdown()
            ray_session.kill_leftovers(ray_processes)
            ray_session.end_reapers()
