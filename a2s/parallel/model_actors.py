"""Pool of Ray actors that each keep one model on one GPU.

The pool is resized with the cluster, and calls go to the least loaded actor. pool.py passes the ray
module in, because it is ray's only importer.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

CALLS_PER_ACTOR = 3
"""Concurrent calls per actor: one uses the GPU while the others read and decode."""
ACTOR_START_SEC = 15.0
"""An actor that has not started after this time is assumed to wait for a GPU."""


@dataclass(frozen=True)
class ModelStage:
    """A stage of a pipeline that needs a model.

    `build()` runs once per process and returns a function, which runs once per item. With Ray it
    runs in actors, one per GPU (one in all without a GPU). An actor runs up to `CALLS_PER_ACTOR`
    calls concurrently, in threads.
    """

    build: Callable[[], Callable[[Any], Any]]


@dataclass(eq=False)
class ModelActor:
    """A Ray actor: handle, a call `started` that returns once its process runs, creation time."""

    handle: Any
    started: Any
    created_at: float


class ModelActors:
    """The actors that run a `ModelStage`: one per GPU, or a single one on a CPU-only cluster."""

    def __init__(
        self,
        ray: Any,
        actor_class: type,
        model_stage: ModelStage,
        isolation: Callable[[], object],
        note: Callable[[str], None],
    ) -> None:
        self.ray = ray
        self.actor_class = actor_class
        self.build = model_stage.build
        self.isolation = isolation
        self.note = note
        self.all: list[ModelActor] = []
        self.reported_no_free_gpu = False
        # Decided once. Falling back to a CPU while all GPU nodes are gone would be slow, and its
        # maps would differ in the last bits.
        self.gpus_per_actor = min(1, int(ray.cluster_resources().get("GPU", 0)))

    def __len__(self) -> int:
        return len(self.all)

    def has_started(self, actor: ModelActor) -> bool:
        """Whether the actor's process has started; it may have to wait for a free GPU."""
        return bool(self.ray.wait([actor.started], timeout=0)[0])

    def least_busy(self, busy_with: Iterable[ModelActor | None]) -> ModelActor:
        """Return the started actor with the fewest calls; consider all if none has started."""
        self._start_up_to(1)
        calls = Counter(busy_with)
        return min(self._started() or self.all, key=lambda actor: calls[actor])

    def is_late(self, actor: ModelActor) -> bool:
        """Whether its calls should move to other actors, because only those have a GPU."""
        late = time.monotonic() - actor.created_at > ACTOR_START_SEC
        return late and not self.has_started(actor) and bool(self._started())

    def forget(self, actor: ModelActor) -> bool:
        """Remove a dead actor; False if it was removed before."""
        if actor not in self.all:
            return False
        self.all.remove(actor)
        return True

    def resize(self, num_gpus: int, *, at_most: int) -> None:
        """Adapt the number of actors to the number of GPUs: at least 1, at most `at_most`."""
        wanted = min(max(1, num_gpus), at_most)
        self._start_up_to(wanted)
        if len(self) > wanted:
            # Kill actors that wait for a GPU before running ones, the newest first.
            self.all.sort(key=lambda actor: not self.has_started(actor))
            self._kill_from(wanted)
        late = self.gpus_per_actor and time.monotonic() - self.all[0].created_at > ACTOR_START_SEC
        if late and not self.reported_no_free_gpu and not self._started():
            self.reported_no_free_gpu = True
            self.note("no GPU of the cluster is free; waiting for one")

    def close(self) -> None:
        """Kill all actors, which frees their GPUs."""
        self._kill_from(0)

    def _started(self) -> list[ModelActor]:
        return [actor for actor in self.all if self.has_started(actor)]

    def _kill_from(self, first: int) -> None:
        for actor in self.all[first:]:
            self.ray.kill(actor.handle)
        del self.all[first:]

    def _start_up_to(self, number: int) -> None:
        options = {
            "num_cpus": 0,
            "num_gpus": self.gpus_per_actor,
            "max_concurrency": CALLS_PER_ACTOR,
        }
        while len(self) < number:
            handle = self.ray.remote(**options)(self.actor_class).remote(self.isolation, self.build)
            self.all.append(ModelActor(handle, handle.ping.remote(), time.monotonic()))
