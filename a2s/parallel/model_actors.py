"""Ray actors that hold a model, one per GPU of a cluster: which have started, which are idle.

The ray module itself comes from pool.py.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

CALLS_PER_ACTOR = 3
"""One has the device, the others read and decode meanwhile."""
WAITING_SEC = 15.0
"""So long a process may take to start; one that has not has no GPU, others have them."""


@dataclass(frozen=True)
class ModelStage:
    """A step that needs a model: `build()` runs once per process, its result once per item.

    With Ray it lives in actors of its own, one per GPU (one where there is none), and up to
    `CALLS_PER_ACTOR` items are in it at a time, each in a thread.
    """

    build: Callable[[], Callable[[Any], Any]]


@dataclass(eq=False)
class ModelActor:
    """An actor, a call that returns when its process has started, and when it was asked for."""

    handle: Any
    started: Any
    asked_at: float


class ModelActors:
    """As many as there are GPUs, or one on a CPU."""

    def __init__(
        self, ray: Any, kind: type, model_stage: ModelStage, note: Callable[[str], None]
    ) -> None:
        self.ray = ray
        self.kind = kind
        self.build = model_stage.build
        self.note = note
        self.all: list[ModelActor] = []
        self.noted_that_none_is_free = False
        # Settled once: a model that moves to a CPU while the GPUs are away would be slow, and its
        # maps not the same to the last bit.
        self.gpus_each = min(1, int(ray.cluster_resources().get("GPU", 0)))

    def __len__(self) -> int:
        return len(self.all)

    def has_started(self, actor: ModelActor) -> bool:
        """Whether its process has started: it may have to wait until others give up a GPU."""
        return bool(self.ray.wait([actor.started], timeout=0)[0])

    def least_busy(self, busy_with: Iterable[ModelActor | None]) -> ModelActor:
        """The one with the fewest calls, of those that have started if any has."""
        self._have(1)
        calls = Counter(busy_with)
        return min(self._started() or self.all, key=lambda actor: calls[actor])

    def is_late(self, actor: ModelActor) -> bool:
        """Whether to wait for it no longer, since others have started."""
        late = time.monotonic() - actor.asked_at > WAITING_SEC
        return late and not self.has_started(actor) and bool(self._started())

    def forget(self, actor: ModelActor) -> bool:
        """Forget one that has died; False if that was known."""
        if actor not in self.all:
            return False
        self.all.remove(actor)
        return True

    def resize(self, num_gpus: int, *, at_most: int) -> None:
        """Have one per GPU that there is now, and one at least."""
        wanted = min(max(1, num_gpus), at_most)
        self._have(wanted)
        if len(self) > wanted:
            # Those for which no GPU was found go first, the youngest of them first.
            self.all.sort(key=lambda actor: not self.has_started(actor))
            self._end(wanted)
        late = self.gpus_each and time.monotonic() - self.all[0].asked_at > WAITING_SEC
        if late and not self.noted_that_none_is_free and not self._started():
            self.noted_that_none_is_free = True
            self.note("no GPU of the cluster is free; waiting for one")

    def close(self) -> None:
        """Let go of the GPUs."""
        self._end(0)

    def _started(self) -> list[ModelActor]:
        return [actor for actor in self.all if self.has_started(actor)]

    def _end(self, first: int) -> None:
        for actor in self.all[first:]:
            self.ray.kill(actor.handle)
        del self.all[first:]

    def _have(self, number: int) -> None:
        options = {"num_cpus": 0, "num_gpus": self.gpus_each, "max_concurrency": CALLS_PER_ACTOR}
        while len(self) < number:
            handle = self.ray.remote(**options)(self.kind).remote(self.build)
            self.all.append(ModelActor(handle, handle.ping.remote(), time.monotonic()))
