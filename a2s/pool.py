"""Map a function over items: in this process, or as Ray tasks. The only importer of ray.

Ray is imported when the first result is asked for and only if `workers` is above 0. Progress lives
in the files that the caller writes, never in object references: kill everything, run it again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from a2s import rayhost
from a2s.errors import A2SError, ConfigError

T = TypeVar("T")
R = TypeVar("R")

AUTO_MIN_IMAGES = 64
WORKERS_PER_CPU_ACTOR = 4
END = object()


@dataclass(frozen=True)
class Before:
    """A step that needs a model: `build()` runs once per process, its result once per item.

    With Ray it lives in actors of its own: one per GPU, or on the CPU one per four workers, which
    ask for no core and run at low priority, so that they take none away from the tasks.
    """

    build: Callable[[], Callable[[Any], Any]]


@dataclass
class Tally:
    """What happened on the way; the caller reports it."""

    crashed: int = 0
    timed_out: int = 0
    max_in_flight: int = 0
    num_before: int = 1
    """Processes that ran the `Before` step."""


@dataclass
class _Job:
    item: Any
    actor: int
    crashes: int = 0
    timeouts: int = 0
    started: float | None = field(default=None)


def resolve_workers(workers: int | Literal["auto"], num_images: int) -> int:
    """Turn the flag into a number: auto is 0 below 64 images (or without Ray), else the CPU count.

    Raises: ConfigError for a negative number.
    """
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


def map_shards(
    fn: Callable[..., R],
    items: Iterable[T],
    *,
    workers: int,
    common: tuple[Any, ...] = (),
    before: Before | None = None,
    ray_address: str | None = None,
    deadline_sec: float = 900.0,
    retries: int = 2,
    name: Callable[[T], str] = str,
    note: Callable[[str], None] | None = None,
    tally: Tally | None = None,
) -> Generator[R, None, None]:
    """Yield `fn(item, *common)` for every item, in order of completion.

    With `before` it is `fn(item, before.build()(item), *common)`. Items are taken lazily, at most
    `2 * workers` are in flight, `common` is shipped once. A task whose process dies is tried again
    `retries` times, one that exceeds `deadline_sec` once (with workers 0 there is no deadline).
    `fn` must be importable on the workers and must not keep state between calls.

    Raises: whatever `fn` raises, as itself; A2SError naming the item after the last retry.
    """
    if workers == 0:
        yield from _map_here(fn, items, common, before)
        return
    tally = tally if tally is not None else Tally()
    note = note or (lambda text: print(text, file=sys.stderr))
    with session(workers=workers, ray_address=ray_address):
        flight = _Flight(fn, common, before, workers)
        tally.num_before = len(flight.actors) or 1
        source = iter(items)
        while True:
            while len(flight.jobs) < 2 * workers and (item := next(source, END)) is not END:
                flight.submit(_Job(item, actor=flight.idlest_actor()))
            tally.max_in_flight = max(tally.max_in_flight, len(flight.jobs))
            if not flight.jobs:
                return
            for job, outcome in flight.wait(deadline_sec):
                if isinstance(outcome, _Crash):
                    tally.crashed += 1
                    job.crashes += 1
                    _again_or_raise(job.crashes, retries, f"{name(job.item)}: {outcome.why}", note)
                    flight.submit(job)
                elif isinstance(outcome, _Overdue):
                    tally.timed_out += 1
                    job.timeouts += 1
                    why = f"{name(job.item)}: not done after {deadline_sec:g} s, stopped"
                    _again_or_raise(job.timeouts, 1, why, note)
                    flight.submit(job)
                else:
                    yield outcome


def _map_here(
    fn: Callable[..., R], items: Iterable[T], common: tuple[Any, ...], before: Before | None
) -> Iterator[R]:
    prepare = before.build() if before else None
    for item in items:
        yield fn(item, *((prepare(item),) if prepare else ()), *common)


def _again_or_raise(times: int, allowed: int, why: str, note: Callable[[str], None]) -> None:
    if times > allowed:
        raise A2SError(f"{why} (given up after {times} times; the same command resumes)")
    note(f"{why}; trying again ({times} of {allowed})")


@dataclass(frozen=True)
class _Crash:
    why: str


class _Overdue:
    pass


class _Flight:
    """The tasks in flight: submitting, waiting, clocks."""

    def __init__(
        self,
        fn: Callable[..., Any],
        common: tuple[Any, ...],
        before: Before | None,
        workers: int,
    ) -> None:
        import ray

        self.ray: Any = ray
        self.workers = workers
        self.jobs: dict[Any, _Job] = {}
        self.task = ray.remote(num_cpus=1, max_retries=0)(_run)
        self.fixed = [ray.put(value) for value in (fn, *common)]
        self.actors: list[Any] = []
        if before is not None:
            num_gpus = int(self.ray.cluster_resources().get("GPU", 0))
            holder = ray.remote(
                num_cpus=0, num_gpus=min(num_gpus, 1), max_restarts=3, max_task_retries=3
            )(_Holder)
            count = num_gpus or -(-workers // WORKERS_PER_CPU_ACTOR)
            self.actors = [
                holder.remote(before.build, polite=num_gpus == 0)
                for _ in range(min(count, workers))
            ]

    def idlest_actor(self) -> int:
        load = [0] * max(1, len(self.actors))
        for job in self.jobs.values():
            load[job.actor] += 1
        return load.index(min(load))

    def submit(self, job: _Job) -> None:
        # The prepared value goes from the actor to the task without passing through this process.
        prepared = [self.actors[job.actor].prepare.remote(job.item)] if self.actors else []
        job.started = None
        self.jobs[self.task.remote(self.fixed[0], job.item, *prepared, *self.fixed[1:])] = job

    def wait(self, deadline_sec: float) -> list[tuple[_Job, Any]]:
        """Take the finished and the overdue tasks out of the flight; wait a second at most."""
        done, _ = self.ray.wait(list(self.jobs), num_returns=1, timeout=min(1.0, deadline_sec / 4))
        finished = [(self.jobs.pop(ref), self._outcome(ref)) for ref in done]
        # Tasks start in order of submission, so the oldest `workers` are the ones that run.
        now = time.monotonic()
        overdue = []
        for ref, job in list(self.jobs.items())[: self.workers]:
            job.started = now if job.started is None else job.started
            if now - job.started > deadline_sec and not self.ray.wait([ref], timeout=0)[0]:
                overdue.append(ref)
        for ref in overdue:
            # Native code does not notice a polite cancel; this ends the worker's process.
            self.ray.cancel(ref, force=True)
            finished.append((self.jobs.pop(ref), _Overdue()))
        return finished

    def _outcome(self, ref: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, A2SError):
                raise cause from None
            raise (cause if isinstance(cause, Exception) else error) from error
        except errors.ActorDiedError as error:
            raise A2SError(f"the process that holds the model died: {error}") from error
        except errors.OutOfMemoryError:
            return _Crash("its worker was stopped because memory ran out (try fewer --workers)")
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError):
            return _Crash("its worker process died")


def _run(fn: Callable[..., R], item: Any, *rest: Any) -> R:
    _one_thread()
    return fn(item, *rest)


class _Holder:
    def __init__(self, build: Callable[[], Callable[[Any], Any]], *, polite: bool) -> None:
        if polite:
            os.nice(10)
            _one_thread()
        self.build = build
        self.step: Callable[[Any], Any] | None = None

    def prepare(self, item: Any) -> Any:
        # Not in __init__: an error there would reach the driver as a dead actor, not as itself.
        if self.step is None:
            self.step = self.build()
        return self.step(item)


def _one_thread() -> None:
    # One core per task: libraries that start a thread per core would only get in each other's way.
    for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@contextlib.contextmanager
def session(*, workers: int, ray_address: str | None = None) -> Iterator[None]:
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
    started_before = rayhost.children()
    try:
        if ray_address is None:
            rayhost.start_local(ray, workers)
        else:
            rayhost.join(ray, ray_address)
        with rayhost.sigterm_handled_by(handler):
            yield
    finally:
        ray_processes = rayhost.descendants(rayhost.children() - started_before)
        ray.shutdown()
        rayhost.end(ray_processes)
