"""One thread for all work of a device, whoever asks for it, and few shapes of work.

cuDNN's plans are kept per thread and shape: a thread that has not yet seen a shape makes plans for
some fifty convolutions, which takes seconds where some of them must be compiled. So many threads
may prepare work for a GPU, and one of them does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

R = TypeVar("R")


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


def pad_batch(image_BSS3: npt.NDArray[np.uint8], *, largest: int) -> npt.NDArray[np.uint8]:
    """A batch with copies of its last image behind it: a power of two of images, or the `largest`.

    Copies change nothing for the others. Shape: B S S 3 -> C S S 3.
    """
    num_images = len(image_BSS3)
    num_copies = min(1 << (num_images - 1).bit_length(), largest) - num_images
    return np.concatenate([image_BSS3, np.repeat(image_BSS3[-1:], num_copies, axis=0)])
