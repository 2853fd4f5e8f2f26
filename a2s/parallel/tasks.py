"""Ray tasks in flight: retries, deadlines, speculative copies of stragglers, joining nodes.

An item has one attempt (a Ray task) in flight, or two if the first is a straggler. An item whose
processes die is divided (`division.py`), and one image runs once more with nothing beside it before
it is given up. pool.py passes the ray module in, because it is ray's only importer.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from a2s.errors import A2SError
from a2s.parallel.division import Again, Division, Item, divide
from a2s.parallel.model_actors import ModelActor, ModelActors, ModelStage
from a2s.parallel.task_loss import Loss, result_of, timed_out

STRAGGLER_FACTOR = 5.0
STRAGGLER_MIN_SEC = 10.0
"""A straggler runs longer than `STRAGGLER_FACTOR` times the median duration, and than this."""
MIN_DURATIONS = 3
CLUSTER_POLL_SEC = 2.0
ACTOR_DEATHS = 3
Isolation = Callable[[], contextlib.AbstractContextManager[object]]
"""Makes a context in which a process survives what its images do to their decoders."""


@dataclass
class Tally:
    """Counters of a `map_items` call, for the caller's report."""

    crashed: int = 0
    timed_out: int = 0
    speculative_copies: int = 0
    """Copies of stragglers that were started."""
    max_in_flight: int = 0
    max_workers: int = 0
    num_actors: int = 0
    worker_sec: float = 0.0
    """Number of workers, integrated over time in seconds."""
    actor_sec: float = 0.0
    """Number of model actors, integrated over time in seconds."""
    node_sec: dict[str, float] = field(default_factory=dict)
    """Seconds of work by node."""


@dataclass
class _Attempt:
    item: Item
    actor: ModelActor | None
    started: float | None = None


class TaskScheduler:
    """Submits items as Ray tasks and yields their results, with retries and timeouts."""

    def __init__(
        self,
        ray: Any,
        run: Callable[..., Any],
        actor_class: type,
        common: tuple[Any, ...],
        *,
        isolation: Isolation,
        division: Division[Any, Any] | None,
        model_stage: ModelStage | None,
        workers: int | None,
        tally: Tally,
        note: Callable[[str], None],
    ) -> None:
        self.ray = ray
        self.tally = tally
        self.note = note
        self.task = ray.remote(num_cpus=1, max_retries=0)(run)
        self.common = [ray.put(value) for value in (isolation, *common)]
        self.division = division
        self.actors = None
        if model_stage:
            self.actors = ModelActors(ray, actor_class, model_stage, isolation, note)
        self.actor_deaths = 0
        self.attempts: dict[Any, _Attempt] = {}
        self.num_items = 0
        self.alone: deque[Item] = deque()
        """Items that run one by one, with nothing beside them."""
        self.durations: deque[float] = deque(maxlen=100)
        self.autoscales = workers is None
        self.workers = workers or 0
        self.refreshed = self.counted = time.monotonic()
        self._refresh_cluster()

    def has_room(self) -> bool:
        """Whether another item may be submitted: at most two per worker are in flight."""
        return not self.alone and self.num_items < 2 * self.workers

    def submit(self, value: Any) -> None:
        """Submit an item."""
        self.num_items += 1
        self._attempt(Item(value))

    def wait(
        self, deadline_sec: float, *, retries: int, name: Callable[[Any], str]
    ) -> Iterator[Any]:
        """Wait at most a second; yield results, retry failures, copy stragglers.

        Raises: exceptions of the task unchanged; A2SError naming an item that failed too often.
        """
        if self.alone and not self.attempts:
            self._attempt(self.alone[0])
        for attempt, outcome in [*self._finished(deadline_sec), *self._timed_out(deadline_sec)]:
            item = attempt.item
            item.attempts -= 1
            if item.is_done:
                continue
            if isinstance(outcome, Loss):
                yield from self._handle_loss(attempt, outcome, name(item.value), retries)
                continue
            node, seconds, result = outcome
            self.actor_deaths = 0
            self.durations.append(
                seconds if attempt.started is None else time.monotonic() - attempt.started
            )
            self.tally.node_sec[node] = self.tally.node_sec.get(node, 0.0) + seconds
            yield from self._finish(item, result)
        self._copy_stragglers(name)
        now = time.monotonic()
        self.tally.worker_sec += self.workers * (now - self.counted)
        self.tally.actor_sec += len(self.actors or ()) * (now - self.counted)
        self.counted = now
        if now - self.refreshed > CLUSTER_POLL_SEC:
            self._refresh_cluster()

    def close(self) -> None:
        """Free the GPUs; the Ray session stays usable."""
        if self.actors is not None:
            self.actors.close()

    def _attempt(self, item: Item) -> None:
        actor, prepared = None, []
        if self.actors is not None:
            actor = self.actors.least_busy(other.actor for other in self.attempts.values())
            # The task receives the actor's result directly, not through this process.
            prepared = [actor.handle.prepare.remote(item.value)]
        isolation, function, *rest = self.common
        reference = self.task.remote(isolation, function, item.value, *prepared, *rest)
        self.attempts[reference] = _Attempt(item, actor)
        item.attempts += 1

    def _finished(self, deadline_sec: float) -> Iterator[tuple[_Attempt, Any]]:
        timeout = min(1.0, deadline_sec / 4)
        done, _ = self.ray.wait(list(self.attempts), num_returns=1, timeout=timeout)
        for reference in done:
            yield self.attempts.pop(reference), result_of(self.ray, reference)

    def _timed_out(self, deadline_sec: float) -> Iterator[tuple[_Attempt, Any]]:
        now = time.monotonic()
        # Tasks start in order of submission, so the oldest `workers` attempts are running.
        for reference, attempt in list(islice(self.attempts.items(), self.workers)):
            if attempt.started is None and attempt.actor and self.actors is not None:
                # The timeout starts only once the model actor has started.
                if self.actors.is_late(attempt.actor):
                    self.ray.cancel(reference, force=True)
                    reason = "its model actor has no GPU yet"
                    yield self.attempts.pop(reference), Loss("no_gpu", reason)
                    continue
                if not self.actors.has_started(attempt.actor):
                    continue
            attempt.started = now if attempt.started is None else attempt.started
            late = now - attempt.started > deadline_sec
            if late and not self.ray.wait([reference], timeout=0)[0]:
                # Native code ignores a plain cancel; `force` kills the worker's process.
                self.ray.cancel(reference, force=True)
                yield self.attempts.pop(reference), timed_out(deadline_sec)

    def _finish(self, item: Item, result: Any) -> Iterator[Any]:
        """Yield the result of an item; that of a part once all parts of its item are done."""
        item.is_done, item.result = True, result
        self._cancel_other_attempt(item)
        if item.is_alone:
            self.alone.remove(item)
        whole = item.whole
        if whole is None:
            self.num_items -= 1
            yield result
        elif all(part.is_done for part in whole.parts):
            assert self.division is not None
            merged = self.division.merge(whole.value, [part.result for part in whole.parts])
            if isinstance(merged, Again):
                whole.value = merged.item
                whole.losses.clear()
                self._attempt(whole)
            else:
                yield from self._finish(whole, merged)

    def _handle_loss(self, attempt: _Attempt, loss: Loss, name: str, retries: int) -> Iterator[Any]:
        item, reason = attempt.item, f"{name}: {loss.reason}"
        item.losses[loss.kind] = item.losses.get(loss.kind, 0) + 1
        self.tally.crashed += loss.kind in ("crash", "model")
        self.tally.timed_out += loss.kind == "timeout"
        times, allowed = item.losses[loss.kind], 1 if loss.kind == "timeout" else retries
        if loss.kind == "model":
            # All calls of the actor fail at once, so do not count them against the items.
            assert self.actors is not None
            self.actor_deaths += attempt.actor is not None and self.actors.forget(attempt.actor)
            # A lost node takes the actors of all its GPUs with it.
            times, allowed = self.actor_deaths, ACTOR_DEATHS * max(1, self.tally.num_actors)
        if item.is_suspect(loss.kind) and self.division is not None:
            if item.attempts == 0:
                yield from self._narrow(item, loss, reason, self.division)
            return
        if loss.kind == "no_gpu":
            self.note(f"{reason}; another actor takes the call")
        elif loss.kind == "node":
            self.note(f"{reason}; running it again")
        elif times > allowed:
            raise A2SError(f"{reason} (given up after {times} times; the same command resumes)")
        else:
            self.note(f"{reason}; trying again ({times} of {allowed})")
        if item.attempts == 0:
            self._attempt(item)

    def _narrow(
        self, item: Item, loss: Loss, reason: str, division: Division[Any, Any]
    ) -> Iterator[Any]:
        """Divide an item whose processes end; of one image, try it alone, then give it up."""
        if parts := divide(item, division):
            self.note(f"{reason}; looking for the image that does it")
            for part in parts:
                self._attempt(part)
        elif item.is_alone:
            self.note(f"{reason}; the image is left out")
            yield from self._finish(item, division.give_up(item.value, loss.verdict, loss.reason))
        else:
            self.note(f"{reason}; trying again with nothing beside it")
            item.is_alone = True
            self.alone.append(item)

    def _copy_stragglers(self, name: Callable[[Any], str]) -> None:
        if len(self.durations) < MIN_DURATIONS or self.workers < 2:
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
            self.note(f"{name(item.value)}: {text}; started a copy, the first to finish counts")
            self._attempt(item)

    def _cancel_other_attempt(self, item: Item) -> None:
        """Cancel the other attempt of an item that is done."""
        if item.attempts == 0:
            return
        for reference, attempt in list(self.attempts.items()):
            if attempt.item is item:
                self.ray.cancel(reference, force=True)
                del self.attempts[reference]
                item.attempts -= 1

    def _refresh_cluster(self) -> None:
        """Adapt workers and model actors to the current CPUs and GPUs of the cluster."""
        self.refreshed = time.monotonic()
        resources = self.ray.cluster_resources()
        if self.autoscales:
            workers = max(1, int(resources.get("CPU", 0)))
            if self.workers and workers != self.workers:
                self.note(f"the cluster has {workers} CPUs now, not {self.workers}")
            self.workers = workers
        self.tally.max_workers = max(self.tally.max_workers, self.workers)
        if self.actors is not None:
            self.actors.resize(int(resources.get("GPU", 0)), at_most=self.workers)
            self.tally.num_actors = max(self.tally.num_actors, len(self.actors))
