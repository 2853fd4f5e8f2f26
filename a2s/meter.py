"""What a training loop reports per interval: loss, speed, and time spent waiting for data."""

from __future__ import annotations

import resource
import time


class Meter:
    """Means over the steps since the last report.

    In the loop: `data_arrived()` first, `step_done(…)` after the update, `wait_for_data()` last.
    """

    def __init__(self) -> None:
        self._waiting_since = time.perf_counter()
        self._restart(self._waiting_since)

    def data_arrived(self) -> None:
        """The wait for a batch is over."""
        self._waited += time.perf_counter() - self._waiting_since

    def step_done(self, loss: float, *, num_images: int) -> None:
        """Count a step of `num_images` images over all ranks."""
        self._loss += loss
        self._images += num_images
        self._steps += 1

    def wait_for_data(self) -> None:
        """The wait for the next batch begins."""
        self._waiting_since = time.perf_counter()

    def report(self) -> dict[str, float]:
        """Mean loss, images/s and share of time spent waiting since the last report."""
        assert self._steps > 0, "no step to report"
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        values = {
            "loss": round(self._loss / self._steps, 6),
            "images_per_sec": round(self._images / elapsed, 2),
            "data_wait_share": round(self._waited / elapsed, 3),
        }
        self._restart(now)
        return values

    def _restart(self, now: float) -> None:
        self._start = now
        self._waited = self._loss = 0.0
        self._images = self._steps = 0


def peak_memory_mib() -> int:
    """Largest resident size of this process so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
