"""SIGINT, SIGTERM and SIGUSR1 while Ray starts, works and stops.

Ray replaces handlers when it starts, in Python by one that exits with 15, in C++ by one that
aborts, and it changes exceptions that a handler raises while it waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from a2s.storage import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PATIENCE_SEC = 8.0
"""A start or a stop that goes on for longer after a signal is given up."""
SAME_SEC = 2.0
"""A launcher may send a signal twice; after this time a second one means: now."""
_NO_ABORTS = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
_came: list[int] = []
"""Signals that the handlers here have seen in this session."""


@contextlib.contextmanager
def import_of_ray() -> Iterator[None]:
    """Inside the block, import ray such that it will replace no handler in C++.

    Only in this process: workers that crash shall write their traces.
    """
    if _NO_ABORTS in os.environ:
        yield
        return
    os.environ[_NO_ABORTS] = "1"
    try:
        yield
    finally:
        del os.environ[_NO_ABORTS]


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Handle signals when the block ends, by the handlers that there are before it.

    An exception in the middle of Ray's start would leave processes that nobody knows. A second
    signal, or `PATIENCE_SEC`, ends a command at once; the reaper ends what it has started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    install, timers, first_sec = signal.signal, list[threading.Timer](), list[float]()

    def note(number: int, frame: FrameType | None) -> None:
        _came.append(number)
        first_sec.append(time.monotonic())
        if not processes.is_command:
            return
        if first_sec[-1] - first_sec[0] > SAME_SEC:
            _end(number)
        if not timers:
            timers.append(threading.Timer(PATIENCE_SEC, _end, [number]))
            timers[0].daemon = True
            timers[0].start()

    def install_others(number: int, handler: Any) -> Any:
        return note if number in SIGNALS else install(number, handler)

    for number in SIGNALS:
        install(number, note)
    signal.signal = install_others  # type: ignore[assignment]
    num_before = len(_came)
    try:
        yield
    finally:
        signal.signal = install
        for number, handler in handlers.items():
            install(number, signal.SIG_DFL if handler is None else handler)
        for timer in timers:
            timer.cancel()
        for came in _came[num_before:][:1]:
            _handle(came, handlers[signal.Signals(came)])


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Inside the block, propagate what handlers of signals raise.

    Ray changes every SystemExit raised while it waits to exit code 1.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    raised: list[BaseException] = []

    def remember(number: int, frame: FrameType | None) -> None:
        _came.append(number)
        try:
            _handle(number, handlers[signal.Signals(number)], frame)
        except BaseException as error:
            raised.append(error)
            raise

    for number in SIGNALS:
        if callable(handlers[number]):
            signal.signal(number, remember)
    try:
        yield
    except SystemExit:
        if raised:
            raise raised[0] from None
        raise
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)


def wait_for_one(timeout_sec: float) -> int | None:
    """The signal that the session has got, if one comes in time; for other threads."""
    deadline = time.monotonic() + timeout_sec
    while not _came and time.monotonic() < deadline:
        time.sleep(0.02)
    return _came[0] if _came else None


def forget() -> None:
    """A session begins; earlier signals are not about it."""
    _came.clear()


def _end(number: int) -> None:
    name = signal.Signals(number).name
    text = f"a2s: ended by {name} while Ray started or stopped; the same command again resumes\n"
    os.write(2, text.encode())
    os._exit(128 + number)


def _handle(number: int, handler: Any, frame: FrameType | None = None) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler != signal.SIG_IGN:
        signal.raise_signal(number)
