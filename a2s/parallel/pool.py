"""Map a function over items: in this process, or as Ray tasks. The only importer of ray.

Ray is imported when the first result is asked for and only if it is wanted. Progress lives in the
files that the caller writes, never in object references: kill everything, run it again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from a2s.errors import ConfigError
from a2s.parallel import ray_session
from a2s.parallel.model_actors import ModelStage
from a2s.parallel.tasks import Tally, TaskScheduler

__all__ = [
    "ModelStage",
    "Tally",
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
END = object()


def resolve_workers(
    workers: int | Literal["auto"], num_images: int, *, ray_address: str | None = None
) -> int | None:
    """Turn the flag into a number: auto is 0 below 64 images (or without Ray), else the CPU count.

    On a cluster auto is None: as many as the cluster has, also when nodes come and go.

    Raises: ConfigError for a negative number.
    """
    if workers == "auto" and ray_address is not None:
        return None
    if workers == "auto":
        small = num_images < AUTO_MIN_IMAGES
        return 0 if small or importlib.util.find_spec("ray") is None else num_cpus()
    if workers < 0:
        raise ConfigError(f"--workers {workers}: give 0 (no Ray), a positive number, or auto")
    return workers


def num_cpus() -> int:
    """CPUs that this process may use: its affinity, cut to the container's quota."""
    cpus = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))


def num_gpus() -> int:
    """GPUs of the Ray session around this call."""
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
    """CPUs of the Ray session around this call, at least 1."""
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
    ray_address: str | None = None,
    deadline_sec: float = 900.0,
    retries: int = 2,
    name: Callable[[T], str] = str,
    note: Callable[[str], None] | None = None,
    tally: Tally | None = None,
) -> Generator[R, None, None]:
    """Yield `fn(item, *common)` for every item, in order of completion.

    With a `model_stage` it is `fn(item, model_stage.build()(item), *common)`. Items are taken
    lazily, at most twice as many as there are workers are in flight, `common` is shipped once. With
    workers None there are as many as the cluster has CPUs at the time.

    A task whose process dies is tried again `retries` times, one that exceeds `deadline_sec` once;
    one whose machine is gone always. A task that takes much longer than the others gets a copy:
    the first to finish counts. So `fn` must give, and write, the same on every worker and however
    often; it must be importable on the workers and keep no state between calls. With workers 0 this
    thread calls it, or `threads` others that each use one core, and nothing is tried again.

    Raises: whatever `fn` raises, as itself; A2SError naming the item after the last retry.
    """
    tally = tally if tally is not None else Tally()
    if workers == 0:
        yield from _map_in_process(fn, items, common, model_stage, threads, tally)
        return
    note = note or (lambda text: print(text, file=sys.stderr))
    with session(workers=workers, ray_address=ray_address):
        import ray

        scheduler = TaskScheduler(
            ray,
            _run,
            _ModelHost,
            (fn, *common),
            model_stage=model_stage,
            workers=workers,
            tally=tally,
            note=note,
        )
        source = iter(items)
        with contextlib.closing(scheduler):
            while True:
                while scheduler.has_room() and (item := next(source, END)) is not END:
                    scheduler.submit(item)
                tally.max_in_flight = max(tally.max_in_flight, scheduler.num_items)
                if not scheduler.num_items:
                    return
                yield from scheduler.wait(deadline_sec, retries=retries, name=name)


def _map_in_process(
    fn: Callable[..., R],
    items: Iterable[T],
    common: tuple[Any, ...],
    model_stage: ModelStage | None,
    threads: int,
    tally: Tally,
) -> Iterator[R]:
    prepare = model_stage.build() if model_stage else None

    def work(item: T) -> R:
        if threads:
            _one_thread()
        return fn(item, *((prepare(item),) if prepare else ()), *common)

    started = time.monotonic()
    if threads == 0:
        for item in items:
            yield work(item)
            tally.worker_sec = time.monotonic() - started
        return
    source = iter(items)
    submitted: set[futures.Future[R]] = set()
    with (
        _threads_restored(),
        futures.ThreadPoolExecutor(threads, "a2s") as executor,
    ):
        try:
            while True:
                for item in islice(source, 2 * threads - len(submitted)):
                    submitted.add(executor.submit(work, item))
                if not submitted:
                    return
                done, submitted = futures.wait(submitted, return_when=futures.FIRST_COMPLETED)
                tally.worker_sec = threads * (time.monotonic() - started)
                yield from (future.result() for future in done)
        finally:
            # Ctrl-C waits for what runs, not for what is queued.
            executor.shutdown(wait=False, cancel_futures=True)


def _run(fn: Callable[..., R], item: Any, *rest: Any) -> tuple[str, float, R]:
    """In a worker: the result, on which node, in how many seconds."""
    import ray

    _one_core()
    started = time.monotonic()
    result = fn(item, *rest)
    return ray.get_runtime_context().get_node_id(), time.monotonic() - started, result


class _ModelHost:
    """In an actor: the `ModelStage` step, built once; calls come from several threads."""

    def __init__(self, build: Callable[[], Callable[[Any], Any]]) -> None:
        self.build = build
        self.step: Callable[[Any], Any] | None = None
        self.lock = threading.Lock()

    def ping(self) -> None:
        """Nothing; that it returns says that the process has started."""

    def prepare(self, item: Any) -> Any:
        # Not in __init__: an error there would reach the driver as a dead actor, not as itself.
        with self.lock:
            if self.step is None:
                self.step = self.build()
        return self.step(item)


def _one_core() -> None:
    # One core per task: libraries that start a thread per core would only get in each other's way.
    for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    _one_thread()


def _one_thread() -> None:
    for module, function in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
        # Another thread may be in the middle of importing it.
        if hasattr(sys.modules.get(module), function):
            getattr(sys.modules[module], function)(1)


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    """Whatever comes next in this process (a training stage) has all its cores again."""
    cv2, torch = sys.modules.get("cv2"), sys.modules.get("torch")
    cv2_threads = cv2.getNumThreads() if cv2 else 0
    torch_threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if cv2:
            cv2.setNumThreads(cv2_threads)
        if torch:
            torch.set_num_threads(torch_threads)


@contextlib.contextmanager
def session(*, workers: int | None, ray_address: str | None = None) -> Iterator[None]:
    """Have Ray running inside the block; one that already runs is used and left running.

    Raises: ConfigError when ray is not installed or the cluster cannot be reached.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        import ray
    except ImportError as error:
        message = "--workers above 0 needs Ray: pip install 'ray>=2.52', or give --workers 0"
        raise ConfigError(message) from error
    if ray.is_initialized():
        yield
        return
    started_before = ray_session.children()
    try:
        if ray_address is None:
            ray_session.start_local(ray, num_cpus() if workers is None else workers)
        else:
            ray_session.join(ray, ray_address)
        with ray_session.sigterm_handled_by(handler):
            yield
    finally:
        ray_processes = ray_session.descendants(ray_session.children() - started_before)
        ray.shutdown()
        ray_session.end(ray_processes)
