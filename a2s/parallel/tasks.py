"""The Ray tasks in flight: who runs what, retries, deadlines, copies of stragglers, coming nodes.

An item is one piece of work; it has one attempt in flight, or two when the first takes too long.
The ray module itself comes from pool.py.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from a2s.errors import A2SError
from a2s.parallel.model_actors import ModelActor, ModelActors, ModelStage

STRAGGLER_FACTOR = 5.0
STRAGGLER_MIN_SEC = 10.0
"""An attempt gets a copy when it runs longer than 5 times the median, and than this."""
KNOWN_DURATIONS = 3
LOOK_AROUND_SEC = 2.0
HOLDER_DEATHS = 3


@dataclass
class Tally:
    """What happened on the way; the caller reports it."""

    crashed: int = 0
    timed_out: int = 0
    copied: int = 0
    """Second attempts of items that took too long."""
    max_in_flight: int = 0
    max_workers: int = 0
    num_before: int = 0
    worker_sec: float = 0.0
    """Workers that there were, times seconds."""
    before_sec: float = 0.0
    """Processes that had the `ModelStage` step, times seconds."""
    node_sec: dict[str, float] = field(default_factory=dict)
    """Seconds of work by node."""


@dataclass
class _Item:
    value: Any
    attempts: int = 0
    copied: bool = False
    done: bool = False
    losses: Counter[str] = field(default_factory=Counter)


@dataclass
class _Attempt:
    item: _Item
    holder: ModelActor | None
    started: float | None = None


@dataclass(frozen=True)
class _Lost:
    kind: str
    why: str


class TaskScheduler:
    """Submitting, waiting, clocks."""

    def __init__(
        self,
        ray: Any,
        run: Callable[..., Any],
        holder: type,
        fixed: tuple[Any, ...],
        *,
        before: ModelStage | None,
        workers: int | None,
        tally: Tally,
        note: Callable[[str], None],
    ) -> None:
        self.ray = ray
        self.tally = tally
        self.note = note
        self.task = ray.remote(num_cpus=1, max_retries=0)(run)
        self.fixed = [ray.put(value) for value in fixed]
        self.holders = ModelActors(ray, holder, before, note) if before else None
        self.holder_deaths = 0
        self.attempts: dict[Any, _Attempt] = {}
        self.num_items = 0
        self.durations: deque[float] = deque(maxlen=100)
        self.follows_cluster = workers is None
        self.workers = workers or 0
        self.looked = self.counted = time.monotonic()
        self._look_around()

    def has_room(self) -> bool:
        """Whether the window, twice the workers, takes another item."""
        return self.num_items < 2 * self.workers

    def submit(self, value: Any) -> None:
        """Start on an item."""
        self.num_items += 1
        self._attempt(_Item(value))

    def wait(
        self, deadline_sec: float, *, retries: int, name: Callable[[Any], str]
    ) -> Iterator[Any]:
        """Wait a second at most; yield results, try again what failed, copy what takes too long.

        Raises: what the task raised; A2SError naming the item that failed too often.
        """
        for attempt, outcome in [*self._finished(deadline_sec), *self._overdue(deadline_sec)]:
            item = attempt.item
            item.attempts -= 1
            if item.done:
                continue
            if isinstance(outcome, _Lost):
                self._lost(attempt, outcome, name(item.value), retries)
                continue
            node, seconds, result = outcome
            item.done = True
            self._call_off(item)
            self.num_items -= 1
            self.holder_deaths = 0
            self.durations.append(
                seconds if attempt.started is None else time.monotonic() - attempt.started
            )
            self.tally.node_sec[node] = self.tally.node_sec.get(node, 0.0) + seconds
            yield result
        self._copy_stragglers(name)
        now = time.monotonic()
        self.tally.worker_sec += self.workers * (now - self.counted)
        self.tally.before_sec += len(self.holders or ()) * (now - self.counted)
        self.counted = now
        if now - self.looked > LOOK_AROUND_SEC:
            self._look_around()

    def close(self) -> None:
        """Let go of the GPUs; the session may go on."""
        if self.holders is not None:
            self.holders.close()

    def _attempt(self, item: _Item) -> None:
        holder, prepared = None, []
        if self.holders is not None:
            holder = self.holders.least_busy(other.holder for other in self.attempts.values())
            # The prepared value goes from there to the task without passing through this process.
            prepared = [holder.actor.prepare.remote(item.value)]
        reference = self.task.remote(self.fixed[0], item.value, *prepared, *self.fixed[1:])
        self.attempts[reference] = _Attempt(item, holder)
        item.attempts += 1

    def _finished(self, deadline_sec: float) -> Iterator[tuple[_Attempt, Any]]:
        timeout = min(1.0, deadline_sec / 4)
        done, _ = self.ray.wait(list(self.attempts), num_returns=1, timeout=timeout)
        for reference in done:
            yield self.attempts.pop(reference), self._outcome(reference)

    def _overdue(self, deadline_sec: float) -> Iterator[tuple[_Attempt, Any]]:
        now = time.monotonic()
        # Tasks start in order of submission, so the oldest `workers` are the ones that run.
        for reference, attempt in list(islice(self.attempts.items(), self.workers)):
            if attempt.started is None and attempt.holder and self.holders is not None:
                # No clock runs while others have the GPU.
                if self.holders.misses(attempt.holder):
                    self.ray.cancel(reference, force=True)
                    why = "its model got no GPU so far"
                    yield self.attempts.pop(reference), _Lost("place", why)
                    continue
                if not self.holders.is_here(attempt.holder):
                    continue
            attempt.started = now if attempt.started is None else attempt.started
            late = now - attempt.started > deadline_sec
            if late and not self.ray.wait([reference], timeout=0)[0]:
                # Native code does not notice a polite cancel; this ends the worker's process.
                self.ray.cancel(reference, force=True)
                why = f"not done after {deadline_sec:g} s, stopped"
                yield self.attempts.pop(reference), _Lost("overdue", why)

    def _outcome(self, reference: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayError as error:
            # What went wrong in the model's process reaches the task as the cause of its error.
            cause = error.cause if isinstance(error, errors.RayTaskError) else error
            if isinstance(cause, errors.RayActorError):
                first_line = str(cause).strip().split("\n", 1)[0]
                return _Lost("model", f"the process that holds the model died ({first_line})")
            if isinstance(cause, errors.OutOfMemoryError):
                why = "its worker was stopped because memory ran out (try fewer --workers)"
                return _Lost("crash", why)
            if isinstance(cause, (errors.NodeDiedError, errors.ObjectLostError)):
                return _Lost("node", "its machine has gone")
            if isinstance(cause, errors.WorkerCrashedError):
                return _Lost("crash", "its worker process died")
            if isinstance(cause, A2SError):
                raise cause from None
            raise (cause if isinstance(cause, Exception) else error) from error

    def _lost(self, attempt: _Attempt, lost: _Lost, name: str, retries: int) -> None:
        item, why = attempt.item, f"{name}: {lost.why}"
        item.losses[lost.kind] += 1
        self.tally.crashed += lost.kind in ("crash", "model")
        self.tally.timed_out += lost.kind == "overdue"
        times, allowed = item.losses[lost.kind], 1 if lost.kind == "overdue" else retries
        if lost.kind == "model":
            # Everything that was with it is lost at once, and says nothing about the items.
            assert self.holders is not None
            self.holder_deaths += attempt.holder is not None and self.holders.lost(attempt.holder)
            # A machine may take the models of all its GPUs with it.
            times, allowed = self.holder_deaths, HOLDER_DEATHS * max(1, self.tally.num_before)
        if lost.kind == "place":
            self.note(f"{why}; another one takes it")
        elif lost.kind == "node":
            self.note(f"{why}; its work is done again")
        elif times > allowed:
            raise A2SError(f"{why} (given up after {times} times; the same command resumes)")
        else:
            self.note(f"{why}; trying again ({times} of {allowed})")
        if item.attempts == 0:
            self._attempt(item)

    def _copy_stragglers(self, name: Callable[[Any], str]) -> None:
        if len(self.durations) < KNOWN_DURATIONS or self.workers < 2:
            return
        limit_sec = max(STRAGGLER_MIN_SEC, STRAGGLER_FACTOR * statistics.median(self.durations))
        now = time.monotonic()
        for attempt in list(islice(self.attempts.values(), self.workers)):
            item = attempt.item
            if item.copied or attempt.started is None or now - attempt.started < limit_sec:
                continue
            item.copied = True
            self.tally.copied += 1
            text = f"runs for {now - attempt.started:.0f} s, far longer than the others"
            self.note(f"{name(item.value)}: {text}; a copy is started, the first to finish counts")
            self._attempt(item)

    def _call_off(self, item: _Item) -> None:
        """Stop the other attempt of an item that is done."""
        if item.attempts == 0:
            return
        for reference, attempt in list(self.attempts.items()):
            if attempt.item is item:
                self.ray.cancel(reference, force=True)
                del self.attempts[reference]
                item.attempts -= 1

    def _look_around(self) -> None:
        """Take in nodes that came, let go of those that went."""
        self.looked = time.monotonic()
        resources = self.ray.cluster_resources()
        if self.follows_cluster:
            workers = max(1, int(resources.get("CPU", 0)))
            if self.workers and workers != self.workers:
                self.note(f"the cluster has {workers} CPUs now, not {self.workers}")
            self.workers = workers
        self.tally.max_workers = max(self.tally.max_workers, self.workers)
        if self.holders is not None:
            self.holders.resize(int(resources.get("GPU", 0)), at_most=self.workers)
            self.tally.num_before = max(self.tally.num_before, len(self.holders))
