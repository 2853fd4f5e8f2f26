"""What a training loop reports per interval: speed, and time spent waiting for data."""

from __future__ import annotations

import resource
import time


class Meter:
    """Rates since the last report.

    In the loop: `data_arrived()` first, `step_done(…)` after the update, `wait_for_data()` last.
    The host may be ahead of a GPU, so report when the device has been waited for.
    """

    def __init__(self) -> None:
        self._waiting_since = time.perf_counter()
        self._restart(self._waiting_since)

    def data_arrived(self) -> None:
        """The wait for a batch is over."""
        self._waited += time.perf_counter() - self._waiting_since

    def step_done(self, *, num_images: int) -> None:
        """Count a step of `num_images` images over all ranks."""
        self._images += num_images

    def wait_for_data(self) -> None:
        """The wait for the next batch begins."""
        self._waiting_since = time.perf_counter()

    def report(self) -> dict[str, float]:
        """Images/s and share of time spent waiting since the last report."""
        now = time.perf_counter()
        elapsed = max(now - self._start, 1e-9)
        values = {
            "images_per_sec": round(self._images / elapsed, 2),
            "data_wait_share": round(self._waited / elapsed, 3),
        }
        self._restart(now)
        return values

    def _restart(self, now: float) -> None:
        self._start = now
        self._waited = 0.0
        self._images = 0


def peak_memory_mib() -> int:
    """Largest resident size of this process so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
