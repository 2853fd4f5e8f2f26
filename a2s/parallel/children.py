"""Call functions in child processes of this one: as many cores as Python threads share one.

For `--workers 0` of work that is mostly Python's own, on one machine. Unlike Ray's workers the
children are there within a second. No file is read here: what passes comes from this program.
"""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

from a2s.errors import A2SError
from a2s.parallel.division import Again, Division
from a2s.parallel.in_process import map_in_process, one_core
from a2s.parallel.tasks import Isolation, Tally
from a2s.storage import child_process

T = TypeVar("T")
R = TypeVar("R")


class ChildDied(Exception):
    """The child ended in the call; `code` is its exit code, negative for a signal."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


class _Worker:
    """A child process that calls functions, one at a time."""

    def __init__(self, isolation: Isolation) -> None:
        self.child = child_process.start(__name__)
        self.requests = Connection(os.dup(self.child.requests.fileno()), readable=False)
        self.replies = Connection(os.dup(self.child.replies.fileno()), writable=False)
        self.requests.send(isolation)
        self.is_ready = False

    def call(self, fn: Callable[..., Any], arguments: tuple[object, ...]) -> tuple[bool, Any]:
        """Whether `fn` raised, and what it raised or returned.

        Raises:
            ChildDied: the child did not survive it.
            RuntimeError, MemoryError: it did not start.
        """
        try:
            if not self.is_ready:
                self.replies.recv()
                self.is_ready = True
            self.requests.send((fn, arguments))
            is_error, result = self.replies.recv()
        except (EOFError, OSError):
            code = self.child.process.wait()
            if self.is_ready:
                raise ChildDied(code) from None
            if code == -signal.SIGKILL:
                raise MemoryError("a child process was killed when it started") from None
            raise RuntimeError(f"a child process did not start (exit code {code})") from None
        return is_error, result

    def close(self) -> None:
        self.child.close()
        self.requests.close()
        self.replies.close()


class Children:
    """A number of child processes.

    `isolation()` is entered once in each, as `pool.map_items` has it.
    """

    def __init__(self, number: int, isolation: Isolation) -> None:
        self._isolation = isolation
        # A child dies with the thread that started it; this thread ends with the process.
        self._starter = ThreadPoolExecutor(1, "a2s-children")
        self._idle: SimpleQueue[Future[_Worker]] = SimpleQueue()
        self._all: list[Future[_Worker]] = []
        for _ in range(number):
            self._start()

    def _start(self) -> None:
        future = self._starter.submit(_Worker, self._isolation)
        self._all.append(future)
        self._idle.put(future)

    def call(self, fn: Callable[..., R], *arguments: object) -> R:
        """Run `fn(*arguments)` in a child, from any thread; waits for one that is idle.

        Raises:
            ChildDied: the child did not survive it; another takes its place.
            Exception: what `fn` raises.
        """
        future = self._idle.get()
        worker = future.result()
        try:
            is_error, result = worker.call(fn, arguments)
        except BaseException:
            worker.close()
            self._start()
            raise
        self._idle.put(future)
        if is_error:
            raise result
        found: R = result
        return found

    def close(self) -> None:
        """End all children, also those at work."""
        for future in self._all:
            if future.exception() is None:
                future.result().close()
        self._starter.shutdown()


@contextlib.contextmanager
def children(number: int, isolation: Isolation) -> Iterator[Children]:
    """Child processes that end with the block."""
    started = Children(number, isolation)
    try:
        yield started
    finally:
        started.close()


def map_in_children(
    fn: Callable[..., R],
    items: Iterable[T],
    common: tuple[object, ...],
    *,
    number: int,
    isolation: Isolation,
    division: Division[T, R],
    name: Callable[[T], str],
    note: Callable[[str], None],
    tally: Tally,
) -> Iterator[R]:
    """Yield the results as `pool.map_items` does, computed in `number` child processes.

    An item that ends its child is divided, until the image is found that does it. One image is
    tried twice, because the kernel may have killed the child for what others used.
    """

    def survived(item: T) -> R:
        try:
            return started.call(fn, item, *common)
        except ChildDied as death:
            reason = f"{name(item)}: {_cause(death.code)[1]}"
        tally.crashed += 1
        if parts := division.split(item):
            note(f"{reason}; looking for the image that does it")
            merged = division.merge(item, [survived(part) for part in parts])
            return survived(merged.item) if isinstance(merged, Again) else merged
        note(f"{reason}; trying again")
        try:
            return started.call(fn, item, *common)
        except ChildDied as death:
            note(f"{reason}; the image is left out")
            return division.give_up(item, *_cause(death.code))

    with children(number, isolation) as started:
        yield from map_in_process(survived, items, (), None, number, tally)


def _cause(code: int) -> tuple[str, str]:
    """Reason (one word) and detail of a child's exit code."""
    if code == -signal.SIGALRM:
        return "timeout", "not decoded in time, stopped"
    if code == -signal.SIGKILL:
        return "memory", "its process was killed, as when memory runs out"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return "crashes", f"its process ended with {how}"


def _as_message(error: Exception) -> Exception:
    """An exception that reaches the parent as it is, or its traceback."""
    if isinstance(error, A2SError):
        return error
    return RuntimeError(f"in a child process:\n{''.join(traceback.format_exception(error))}")


def main() -> NoReturn:
    """Answer calls until the parent ends this process, or itself."""
    incoming, outgoing = child_process.settle()
    requests = Connection(os.dup(incoming.fileno()), writable=False)
    replies = Connection(os.dup(outgoing.fileno()), readable=False)
    one_core()
    with contextlib.suppress(EOFError, BrokenPipeError), requests.recv()():
        replies.send(None)
        while True:
            fn, arguments = requests.recv()
            try:
                reply = False, fn(*arguments)
            except Exception as error:
                reply = True, _as_message(error)
            replies.send(reply)
    os._exit(0)


if __name__ == "__main__":
    main()
