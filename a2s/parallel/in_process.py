"""Map a function over items in this process, in its main thread or in several."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from itertools import islice
from typing import TypeVar

from a2s.parallel.model_actors import ModelStage
from a2s.parallel.tasks import Tally
from a2s.storage.machine import choose_threads

T = TypeVar("T")
R = TypeVar("R")


def map_in_process(
    fn: Callable[..., R],
    items: Iterable[T],
    common: tuple[object, ...],
    model_stage: ModelStage | None,
    threads: int,
    tally: Tally,
) -> Iterator[R]:
    """Yield the results as `pool.map_items` does without Ray."""
    prepare = model_stage.build() if model_stage else None

    def work(item: T) -> R:
        if threads:
            _one_thread()
        return fn(item, *((prepare(item),) if prepare else ()), *common)

    started = time.monotonic()
    if threads == 0:
        for item in items:
            yield work(item)
            tally.worker_sec = time.monotonic() - started
        return
    source = iter(items)
    submitted: set[futures.Future[R]] = set()
    with (
        _threads_restored(),
        futures.ThreadPoolExecutor(threads, "a2s") as executor,
    ):
        try:
            while True:
                for item in islice(source, 2 * threads - len(submitted)):
                    submitted.add(executor.submit(work, item))
                if not submitted:
                    return
                done, submitted = futures.wait(submitted, return_when=futures.FIRST_COMPLETED)
                tally.worker_sec = threads * (time.monotonic() - started)
                yield from (future.result() for future in done)
        finally:
            # After Ctrl-C, wait for running calls but not for queued ones.
            executor.shutdown(wait=False, cancel_futures=True)


def one_core() -> None:
    """Let the libraries of this process use one core."""
    # Ray runs one task per core, so libraries must not start a thread per core.
    for variable in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = "1"
    choose_threads(os.environ)
    _one_thread()


def _one_thread() -> None:
    for module, function in (("cv2", "setNumThreads"), ("torch", "set_num_threads")):
        # Another thread may still be importing the module.
        if hasattr(sys.modules.get(module), function):
            getattr(sys.modules[module], function)(1)


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    """Restore the libraries' thread counts on exit, for later stages in this process."""
    cv2, torch = sys.modules.get("cv2"), sys.modules.get("torch")
    cv2_threads = cv2.getNumThreads() if cv2 else 0
    torch_threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if cv2:
            cv2.setNumThreads(cv2_threads)
        if torch:
            torch.set_num_threads(torch_threads)
