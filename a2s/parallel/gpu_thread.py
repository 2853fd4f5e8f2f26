"""One thread for all work of a GPU; prefetch threads read and decode ahead of it.

cuDNN keeps its plans per thread and shape. A thread that meets a new shape plans some fifty
convolutions, which takes seconds if some must be compiled. So many threads prepare work for a GPU,
and one thread submits it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from a2s.storage.machine import num_cpus

R = TypeVar("R")
PREFETCH_THREADS = max(8, min(16, num_cpus()))
"""Threads per GPU that read, decode, and do other CPU work.

A photograph takes them some 4 ms: eight carried 1,421 images a second, sixteen 2,034
(benchmarks/results/label_pipeline.json).
"""


class DeviceThread:
    """Runs functions one after the other, always in the same thread."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "a2s-device")

    def __call__(self, function: Callable[[], R]) -> R:
        """Run `function` there, wait, and return or raise its result."""
        return self._executor.submit(function).result()


@functools.cache
def device_thread() -> DeviceThread:
    """The thread of this process's GPU."""
    return DeviceThread()
