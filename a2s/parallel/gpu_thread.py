"""One thread for all work of a GPU, and threads that read and decode ahead of it.

cuDNN's plans are kept per thread and shape: a thread that has not yet seen a shape makes plans for
some fifty convolutions, which takes seconds where some of them must be compiled. So many threads
may prepare work for a GPU, and one of them does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

R = TypeVar("R")
PREFETCH_THREADS = 8
"""Threads per GPU that read and decode, and do what else is the CPU's."""


class DeviceThread:
    """Calls functions one after the other, always in the same thread."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "a2s-device")

    def __call__(self, function: Callable[[], R]) -> R:
        """Wait for the thread, and for what the function gives or raises there."""
        return self._executor.submit(function).result()


@functools.cache
def device_thread() -> DeviceThread:
    """The thread of this process's GPU, whatever is done there."""
    return DeviceThread()
