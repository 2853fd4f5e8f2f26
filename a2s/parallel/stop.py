"""Signals that end a training run: the first one after a commit, the second one now.

Python runs a signal handler only between two of its own instructions, so a main thread that waits
inside a collective is deaf. A thread reads the signals too, and ends the process if the main thread
does not.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from a2s.storage import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what launchers and schedulers send; what SLURM sends with `--signal=USR1@SECONDS`."""
STEP_SEC = 60.0
"""A main thread that was asked to stop after its step has this long."""
NOW_SEC = 5.0
"""One that was told to stop at once has this long."""
_NO_SIGNAL = b"\0"
SAME_SEC = 2.0
"""A launcher forwards a signal that its ranks got as well; within this time it is the same one."""


class StopRequest:
    """What signals have asked for. Made by `handled`."""

    def __init__(self, *, launched: bool) -> None:
        self._launched = launched
        self._first_sec = 0.0
        self._deadline_sec: float | None = None
        self.num_calls = 0
        """How often the main thread's handler has run."""
        self.is_noted_by_thread = False
        """Whether the other thread has noted signals for which that handler will still run."""
        self.number = 0
        """The signal that asked to stop; 0: none has."""
        self.is_deferred = False
        """Whether a first signal only sets `number`, because somebody will look at it soon."""
        self.ends_now = False
        """Whether the process ends without another step."""
        self.is_agreed = False
        """Whether all ranks end because of it, at the same step."""

    @property
    def name(self) -> str:
        """Name of the signal, such as SIGTERM."""
        return signal.Signals(self.number).name if self.number else "no signal"

    def end_deferral(self) -> None:
        """From now on a signal ends the process at once, as does one that has come already."""
        self.is_deferred = False
        if self.number:
            end_by(self.number)

    def note(self, number: int) -> None:
        """Note that a signal has come."""
        now = time.monotonic()
        if self.number and self._launched and now - self._first_sec < SAME_SEC:
            return
        self.ends_now = bool(self.number) or not self.is_deferred
        if not self.number:
            self.number, self._first_sec = number, now
        self._deadline_sec = now + (NOW_SEC if self.ends_now else STEP_SEC)

    @property
    def is_overdue(self) -> bool:
        """Whether the main thread should have ended by now."""
        return self._deadline_sec is not None and time.monotonic() > self._deadline_sec


_current: StopRequest | None = None


def current() -> StopRequest:
    """The request of the running command; outside of `handled`, one that nobody makes."""
    return _current if _current is not None else StopRequest(launched=False)


def exit_code(number: int) -> int:
    """What a shell reports for a process that a signal has ended."""
    return 128 + number


def end_by(number: int) -> NoReturn:
    """Leave as a signal asks: by its exit code, or by KeyboardInterrupt in another's program."""
    if number == signal.SIGINT and not processes.is_command:
        raise KeyboardInterrupt
    raise SystemExit(exit_code(number))


@contextmanager
def handled(
    before_exit: Sequence[Callable[[], None]], last_words: Callable[[str], None]
) -> Iterator[StopRequest]:
    """Handle `SIGNALS` inside the block, in the main thread; elsewhere, leave them as they are.

    A signal raises SystemExit (for Ctrl-C, KeyboardInterrupt) unless that is deferred. If the main
    thread of a command does not end in time, a thread says `last_words`, calls `before_exit` and
    ends the process; that of another program, such as a notebook, is left alone.
    """
    global _current
    request = StopRequest(launched="WORLD_SIZE" in os.environ)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handler(number: int, frame: FrameType | None) -> None:
        request.num_calls += 1
        if request.is_noted_by_thread:
            request.is_noted_by_thread = False
        else:
            request.note(number)
        if request.ends_now:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            end_by(number)

    reader, writer = socket.socketpair()
    writer.setblocking(False)
    old_handlers = {number: signal.signal(number, handler) for number in SIGNALS}
    old_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(
        target=_end_if_overdue,
        args=(reader, request, before_exit, last_words),
        daemon=True,
        name="signals",
    )
    watch.start()
    _current = request
    try:
        yield request
    finally:
        _current = None
        signal.set_wakeup_fd(old_fd)
        for number, old in old_handlers.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)
        # Not its end: forked workers hold this socket too.
        writer.send(_NO_SIGNAL)
        watch.join()
        writer.close()
        reader.close()


def _end_if_overdue(
    reader: socket.socket,
    request: StopRequest,
    before_exit: Sequence[Callable[[], None]],
    last_words: Callable[[str], None],
) -> None:
    """Read the numbers of signals as they arrive, until `_NO_SIGNAL`."""
    first = 0
    while True:
        reader.settimeout(0.5 if first else None)
        with contextlib.suppress(TimeoutError):
            num_calls, numbers = request.num_calls, reader.recv(64)
            if _NO_SIGNAL[0] in numbers:
                return
            received = [number for number in numbers if number in SIGNALS]
            first = first or next(iter(received), 0)
            # The main thread's handler notes them, unless that thread is deaf. One call may stand
            # for several signals.
            time.sleep(0.2)
            if received and request.num_calls == num_calls:
                request.is_noted_by_thread = True
                for number in received:
                    request.note(number)
        if first and processes.is_command and request.is_overdue:
            last_words(f"was ended by {request.name}")
            for finish in before_exit:
                finish()
            os._exit(exit_code(first))
