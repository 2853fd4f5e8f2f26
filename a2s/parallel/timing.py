"""Seconds of work by stage, counted where the work is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimer:
    """Adds to the seconds of stages; several threads may use one at a time."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._lock = threading.Lock()
        self._lap_began = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what the block takes, also when it raises."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - began)

    def begin_lap(self) -> None:
        """Have the next lap begin now."""
        self._lap_began = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count what has passed since the last lap; the next one begins now."""
        now = time.perf_counter()
        self._add(name, now - self._lap_began)
        self._lap_began = now

    def _add(self, name: str, sec: float) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + sec
