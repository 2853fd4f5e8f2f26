"""Timer of the stages of a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimer:
    """Adds up seconds of work by stage; thread-safe, except for laps."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._lap_began = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the duration of the block, even if it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - began)

    def begin_lap(self) -> None:
        """Start a lap."""
        self._lap_began = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the lap started to stage `name`, and start the next lap."""
        now = time.perf_counter()
        self._add(name, now - self._lap_began)
        self._lap_began = now

    def _add(self, name: str, sec: float) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + sec
