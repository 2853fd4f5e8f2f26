"""Watch the other training ranks: which one has died, stopped, failed or hangs, and why.

Every rank writes a heartbeat to a store that rank 0 serves, and reads those of the others. A
collective only says that a connection was closed, or nothing at all for half an hour.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from a2s.parallel.heartbeat import Beat, State, Store
from a2s.storage.processes import line_of, machine_id, oom_kills, state_of

BEAT_SEC = 1.0
RANKS_PER_SEC = 64
"""More ranks beat less often, so that the store's load stays the same."""
SILENT_SEC = 60.0
"""A process that runs beats; one that holds the interpreter's lock may pause for long."""
EVIDENCE_SEC = 10.0
"""After a collective has failed, how long to look for the rank whose fault it is."""
QUIET_SEC = 5.0
"""A heartbeat that is this old is evidence once a collective has failed."""
LEAVE_SEC = 5.0
"""The main thread has this long to end by itself after a fault."""


class PeerWatch:
    """Beats for this rank and watches the others, in two threads.

    One talks to the store and may wait for it, even for ever if rank 0 is stopped; one judges.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world: int,
        timeout_sec: float,
        before_exit: Sequence[Callable[[], None]],
    ) -> None:
        self._store, self._rank, self._world = store, rank, world
        self._timeout_sec = timeout_sec
        self._before_exit = before_exit
        self._period_sec = max(BEAT_SEC, world / RANKS_PER_SEC)
        self._quiet_sec = max(QUIET_SEC, 4 * self._period_sec)
        self._silent_sec = max(min(SILENT_SEC, timeout_sec), 5 * self._period_sec)
        self._host, self._machine = socket.gethostname(), machine_id()
        self._main = threading.main_thread().ident
        self._state: State = "works"
        self._failure = ""
        self._count = self._progress = 0
        self._beats: dict[int, Beat] = {}
        self._forget_ages()
        self._oom_kills = oom_kills()
        self._faulty: dict[int, str] = {}
        self._now, self._sent = threading.Event(), threading.Event()
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True, name=name)
            for target, name in ((self._exchange, "heartbeats"), (self._watch, "peers"))
        ]
        self._beat()

    def begin(self) -> None:
        """Start to watch, once all ranks have begun to beat."""
        # A rank of which nothing was ever heard could not be judged.
        self._read()
        for thread in self._threads:
            thread.start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside the block this rank waits for the others, and cannot be what they wait for."""
        self._state = "waits"
        try:
            yield
        finally:
            self._state = "works"
            self._progress += 1

    def fail(self, why: str) -> None:
        """Tell the others why this rank ends."""
        self._state, self._failure = "failed", why
        self._beat_now()

    def explain(self) -> str | None:
        """After a collective has failed: whose fault it is; None without evidence in time."""
        deadline = time.monotonic() + EVIDENCE_SEC + self._quiet_sec
        while not self._faulty and time.monotonic() < deadline:
            self._now.set()
            self._judge(silent_sec=self._quiet_sec)
            time.sleep(0.2)
        return self.message() if self._faulty else None

    def message(self) -> str:
        """One line about the ranks at fault."""
        said = "; ".join(f"{self._name(rank)} {why}" for rank, why in sorted(self._faulty.items()))
        return f"{said}. All ranks end; the same command resumes from the last commit"

    @property
    def speaks(self) -> bool:
        """Whether this is the rank that prints the message: the first one that is not at fault."""
        able = set(range(self._world)) - self._faulty.keys()
        if 0 in self._faulty:
            # Its neighbours may be lost with it, so one rank of each machine speaks.
            able = {r for r in able if (b := self._beats.get(r)) and b.machine == self._machine}
        return self._rank == min(able, default=self._rank)

    def close(self) -> None:
        """End the watch. Rank 0, which serves the store, waits for the others to end theirs."""
        patience_sec = LEAVE_SEC + 2 * self._period_sec
        if self._state not in ("failed", "leaves"):
            self._state, patience_sec = "done", self._timeout_sec
        self._beat_now()
        deadline = time.monotonic() + (patience_sec if self._rank == 0 else 0)
        while not self._faulty and time.monotonic() < deadline:
            others = [self._beats.get(rank) for rank in range(self._world) if rank != self._rank]
            if all(beat and beat.state in ("done", "failed", "leaves") for beat in others):
                break
            self._judge(silent_sec=self._quiet_sec)
            self._now.set()
            time.sleep(0.05)
        self._closed.set()
        self._now.set()
        for thread in self._threads:
            thread.join(timeout=1)

    def _beat_now(self) -> None:
        """Beat out of turn; wait a little for the store."""
        self._sent.clear()
        self._now.set()
        self._sent.wait(2 * BEAT_SEC)

    def _exchange(self) -> None:
        while not self._closed.is_set():
            self._now.wait(self._period_sec)
            self._now.clear()
            # Without an answer of rank 0's store only that rank can be judged.
            with contextlib.suppress(RuntimeError):
                self._beat()
                self._read()
                self._sent.set()

    def _watch(self) -> None:
        last_sec = time.monotonic()
        while not self._closed.wait(self._period_sec):
            if time.monotonic() - last_sec > 5 * self._period_sec:
                # This process was stopped itself, or the machine slept: judge the others afresh.
                self._forget_ages()
            last_sec = time.monotonic()
            self._judge(silent_sec=self._silent_sec)
            if self._faulty:
                self._leave()

    def _leave(self) -> None:
        """End the process, unless its main thread does; it may wait in a collective for ever."""
        self.leave()
        if self._closed.wait(LEAVE_SEC):
            return
        for finish in self._before_exit:
            finish()
        if self.speaks:
            print(f"a2s: {self.message()}", file=sys.stderr, flush=True)
        os._exit(2)

    def leave(self) -> None:
        """Tell the others which ranks are at fault; rank 0, with its store, leaves after them."""
        self._state = "leaves"
        self._beat_now()
        if self._rank == 0:
            time.sleep(2 * self._period_sec)

    def _beat(self) -> None:
        self._count += 1
        beat = Beat(
            count=self._count,
            progress=self._progress,
            state=self._state,
            host=self._host,
            machine=self._machine,
            pid=os.getpid(),
            where=self._failure or line_of(self._main),
            faulty={str(rank): why for rank, why in self._faulty.items()},
        )
        self._store.set(_key(self._rank), beat.text())

    def _read(self) -> None:
        read = self._store.multi_get([_key(rank) for rank in range(self._world)])
        now = self._read_sec = time.monotonic()
        for rank, data in enumerate(read):
            beat, old = Beat.parse(data), self._beats.get(rank)
            if old is None or beat.count != old.count:
                self._changed_sec[rank] = now
            if old is None or (beat.progress, beat.state) != (old.progress, old.state):
                self._progress_sec[rank] = now
            self._beats[rank] = beat
            # Who has found a fault first is believed: its end looks like another one.
            for number, why in beat.faulty.items():
                self._faulty.setdefault(int(number), why)

    def _judge(self, *, silent_sec: float) -> None:
        """Find the ranks at fault."""
        now, beats = time.monotonic(), dict(self._beats)
        answers = now - self._read_sec < 3 * self._period_sec
        for rank, beat in beats.items():
            judged_sec = silent_sec if answers or rank == 0 else math.inf
            if rank != self._rank and (why := self._fault_of(rank, beat, judged_sec, now)):
                self._faulty[rank] = why
        if answers:
            self._blame_the_late(beats, now)

    def _fault_of(self, rank: int, beat: Beat, silent_sec: float, now: float) -> str | None:
        if beat.state == "failed":
            return f"failed: {beat.where}"
        if beat.state in ("done", "leaves"):
            return None
        if beat.machine == self._machine:
            if (state := state_of(beat.pid)) is None:
                return self._ended()
            if state != "T":
                # It runs, but something keeps the interpreter's lock, such as a slow disk.
                silent_sec = max(silent_sec, self._timeout_sec)
        silent = now - self._changed_sec[rank]
        return _silent(silent) if silent > silent_sec else None

    def _ended(self) -> str:
        if oom_kills() > self._oom_kills:
            return "was killed; the kernel has killed a process for lack of memory"
        return "was killed (by kill -9, or by the kernel, which logs it, for lack of memory)"

    def _blame_the_late(self, beats: dict[int, Beat], now: float) -> None:
        """A rank is late if it works on for too long while others wait for it."""
        others_wait = any(
            beat.state == "waits" and now - self._progress_sec[rank] > self._timeout_sec
            for rank, beat in beats.items()
        )
        if not others_wait:
            return
        for rank, beat in beats.items():
            idle, silent = now - self._progress_sec[rank], now - self._changed_sec[rank]
            if beat.state == "works" and idle > self._timeout_sec:
                late = f"has made no step for {idle:.0f} s; it is at {beat.where}"
                self._faulty[rank] = late if silent < self._quiet_sec else _silent(silent)

    def _forget_ages(self) -> None:
        now = self._read_sec = time.monotonic()
        self._changed_sec = dict.fromkeys(range(self._world), now)
        self._progress_sec = dict.fromkeys(range(self._world), now)

    def _name(self, rank: int) -> str:
        beat = self._beats.get(rank)
        return f"rank {rank}" + (f" (pid {beat.pid} on {beat.host})" if beat else "")


def _key(rank: int) -> str:
    return f"beat/{rank}"


def _silent(seconds: float) -> str:
    return f"has been silent for {seconds:.0f} s: its process is stopped, or its machine lost"
