"""Ray tasks in flight: retries, deadlines, speculative copies of stragglers, joining nodes.

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
REFRESH_SEC = 2.0
ACTOR_DEATHS = 3


@dataclass
class Tally:
    """What happened on the way; the caller reports it."""

    crashed: int = 0
    timed_out: int = 0
    speculative_copies: int = 0
    """Second attempts of items that took too long."""
    max_in_flight: int = 0
    max_workers: int = 0
    num_actors: int = 0
    worker_sec: float = 0.0
    """Workers that there were, times seconds."""
    actor_sec: float = 0.0
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
    actor: ModelActor | None
    started: float | None = None


@dataclass(frozen=True)
class _Loss:
    kind: str
    why: str


class TaskScheduler:
    """Submitting, waiting, clocks."""

    def __init__(
        self,
        ray: Any,
        run: Callable[..., Any],
        actor_class: type,
        common: tuple[Any, ...],
        *,
        model_stage: ModelStage | None,
        workers: int | None,
        tally: Tally,
        note: Callable[[str], None],
    ) -> None:
        self.ray = ray
        self.tally = tally
        self.note = note
        self.task = ray.remote(num_cpus=1, max_retries=0)(run)
        self.common = [ray.put(value) for value in common]
        self.actors = ModelActors(ray, actor_class, model_stage, note) if model_stage else None
        self.actor_deaths = 0
        self.attempts: dict[Any, _Attempt] = {}
        self.num_items = 0
        self.durations: deque[float] = deque(maxlen=100)
        self.follows_cluster = workers is None
        self.workers = workers or 0
        self.refreshed = self.counted = time.monotonic()
        self._refresh_cluster()

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
            if isinstance(outcome, _Loss):
                self._handle_loss(attempt, outcome, name(item.value), retries)
                continue
            node, seconds, result = outcome
            item.done = True
            self._cancel_other_attempt(item)
            self.num_items -= 1
            self.actor_deaths = 0
            self.durations.append(
                seconds if attempt.started is None else time.monotonic() - attempt.started
            )
            self.tally.node_sec[node] = self.tally.node_sec.get(node, 0.0) + seconds
            yield result
        self._copy_stragglers(name)
        now = time.monotonic()
        self.tally.worker_sec += self.workers * (now - self.counted)
        self.tally.actor_sec += len(self.actors or ()) * (now - self.counted)
        self.counted = now
        if now - self.refreshed > REFRESH_SEC:
            self._refresh_cluster()

    def close(self) -> None:
        """Let go of the GPUs; the session may go on."""
        if self.actors is not None:
            self.actors.close()

    def _attempt(self, item: _Item) -> None:
        actor, prepared = None, []
        if self.actors is not None:
            actor = self.actors.least_busy(other.actor for other in self.attempts.values())
            # The prepared value goes from there to the task without passing through this process.
            prepared = [actor.handle.prepare.remote(item.value)]
        reference = self.task.remote(self.common[0], item.value, *prepared, *self.common[1:])
        self.attempts[reference] = _Attempt(item, actor)
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
            if attempt.started is None and attempt.actor and self.actors is not None:
                # No clock runs while others have the GPU.
                if self.actors.is_late(attempt.actor):
                    self.ray.cancel(reference, force=True)
                    why = "its model got no GPU so far"
                    yield self.attempts.pop(reference), _Loss("no_gpu", why)
                    continue
                if not self.actors.has_started(attempt.actor):
                    continue
            attempt.started = now if attempt.started is None else attempt.started
            late = now - attempt.started > deadline_sec
            if late and not self.ray.wait([reference], timeout=0)[0]:
                # Native code does not notice a polite cancel; this ends the worker's process.
                self.ray.cancel(reference, force=True)
                why = f"not done after {deadline_sec:g} s, stopped"
                yield self.attempts.pop(reference), _Loss("overdue", why)

    def _outcome(self, reference: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayError as error:
            # What went wrong in the model's process reaches the task as the cause of its error.
            cause = error.cause if isinstance(error, errors.RayTaskError) else error
            if isinstance(cause, errors.RayActorError):
                first_line = str(cause).strip().split("\n", 1)[0]
                return _Loss("model", f"the process that holds the model died ({first_line})")
            if isinstance(cause, errors.OutOfMemoryError):
                why = "its worker was stopped because memory ran out (try fewer --workers)"
                return _Loss("crash", why)
            if isinstance(cause, (errors.NodeDiedError, errors.ObjectLostError)):
                return _Loss("node", "its machine has gone")
            if isinstance(cause, errors.WorkerCrashedError):
                return _Loss("crash", "its worker process died")
            if isinstance(cause, A2SError):
                raise cause from None
            raise (cause if isinstance(cause, Exception) else error) from error

    def _handle_loss(self, attempt: _Attempt, loss: _Loss, name: str, retries: int) -> None:
        item, why = attempt.item, f"{name}: {loss.why}"
        item.losses[loss.kind] += 1
        self.tally.crashed += loss.kind in ("crash", "model")
        self.tally.timed_out += loss.kind == "overdue"
        times, allowed = item.losses[loss.kind], 1 if loss.kind == "overdue" else retries
        if loss.kind == "model":
            # Everything that was with it is lost at once, and says nothing about the items.
            assert self.actors is not None
            self.actor_deaths += attempt.actor is not None and self.actors.forget(attempt.actor)
            # A machine may take the models of all its GPUs with it.
            times, allowed = self.actor_deaths, ACTOR_DEATHS * max(1, self.tally.num_actors)
        if loss.kind == "no_gpu":
            self.note(f"{why}; another one takes it")
        elif loss.kind == "node":
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
            self.tally.speculative_copies += 1
            text = f"runs for {now - attempt.started:.0f} s, far longer than the others"
            self.note(f"{name(item.value)}: {text}; a copy is started, the first to finish counts")
            self._attempt(item)

    def _cancel_other_attempt(self, item: _Item) -> None:
        """Stop the other attempt of an item that is done."""
        if item.attempts == 0:
            return
        for reference, attempt in list(self.attempts.items()):
            if attempt.item is item:
                self.ray.cancel(reference, force=True)
                del self.attempts[reference]
                item.attempts -= 1

    def _refresh_cluster(self) -> None:
        """Take in nodes that came, let go of those that went."""
        self.refreshed = time.monotonic()
        resources = self.ray.cluster_resources()
        if self.follows_cluster:
            workers = max(1, int(resources.get("CPU", 0)))
            if self.workers and workers != self.workers:
                self.note(f"the cluster has {workers} CPUs now, not {self.workers}")
            self.workers = workers
        self.tally.max_workers = max(self.tally.max_workers, self.workers)
        if self.actors is not None:
            self.actors.resize(int(resources.get("GPU", 0)), at_most=self.workers)
            self.tally.num_actors = max(self.tally.num_actors, len(self.actors))
