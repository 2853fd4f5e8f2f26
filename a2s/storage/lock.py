"""File locks: one writer per output folder, or one writer per range of shards.

The kernel releases a lock when its process ends, so a killed job never blocks the next one. Where
locks do not reach other machines (some network file systems), or do not exist, a sign of life does:
the holder touches the lock's file every few seconds.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from a2s.errors import ConfigError
from a2s.storage.files import read_text
from a2s.storage.processes import machine_id, state_of

TAKEOVER = "A2S_TAKEOVER"
"""Environment variable of `--takeover`."""
BEAT_SEC = 15.0
STALE_SEC = 60.0
"""A holder whose last sign of life is older does not run, is suspended, or has lost the disk."""
LOCK = ".lock"
_UNKNOWN = "another process"
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """Who wrote the lock's file, and when it was last alive."""

    name: str
    """Command, process and host, for people."""
    pid: int
    machine: str
    token: str
    """Unique for each time that a lock was taken; empty once it was released."""
    age_sec: float
    """Time since the last sign of life, by the clock of the file system."""

    @classmethod
    def read(cls, out: Path) -> Holder:
        """Read it; a file of another form gives a holder without token."""
        path = out / LOCK
        try:
            name, *rest = read_text(path, errors="replace").splitlines() or [""]
            age_sec = _file_system_time(out) - path.stat().st_mtime
        except OSError:
            name, rest, age_sec = "", [], 0.0
        fields = dict(line.split(" ", 1) for line in rest if " " in line)
        pid = fields.get("pid", "")
        return cls(
            name or _UNKNOWN,
            int(pid) if pid.isdigit() else 0,
            fields.get("machine", ""),
            fields.get("token", ""),
            age_sec,
        )

    @property
    def is_here(self) -> bool:
        """Whether its process number is one of this machine's."""
        return self.machine == machine_id()

    def describe(self) -> str:
        """What is known of it, and what to do."""
        if self.is_here and state_of(self.pid) == "T":
            return f"{self.name}, which is suspended (fg, or kill -CONT {self.pid}); or stop it"
        if self.token and self.age_sec > STALE_SEC:
            ago = f"{self.age_sec:,.0f} s ago"
            return (
                f"{self.name}, whose last sign of life was {ago}: it hangs, or its machine is "
                "lost; once it is certain that it does not run, --takeover goes on without it"
            )
        return f"{self.name}; wait, or stop it"


@contextlib.contextmanager
def hold(
    out: Path, command: str, *, parts: Sequence[range] | None = None
) -> Iterator[Callable[[], bool]]:
    """Lock an output folder, or only the shards with the numbers `parts`.

    Yields a function to call once, at the end of the block: it upgrades the lock to the whole
    folder and returns whether that succeeded, that is, whether no other process is writing there.

    Raises:
        ConfigError: another process holds the lock of the folder or of some of these shards.
    """
    with contextlib.ExitStack() as stack:
        kind = fcntl.LOCK_EX if parts is None else fcntl.LOCK_SH
        file, is_free = _open_locked(out, kind)
        stack.callback(file.close)
        if is_free is None and parts is not None:
            raise ConfigError(
                f"{command}: the file system of {out} has no file locks, which processes that "
                "share a folder (--shards) need; give each its own --out"
            )
        if is_free is False:
            holder = Holder.read(out)
            if not os.environ.get(TAKEOVER):
                raise ConfigError(f"{command}: {out} is in use by {holder.describe()}")
            file = _take_over(out, command, holder)
            stack.callback(file.close)
        if parts is None:
            _refuse_a_living_holder(out, command, has_locks=is_free is not None)
            with _signs_of_life(out, command, file):
                yield lambda: True
            return
        # A separate file: closing any descriptor of a file releases all its record locks.
        with (out / ".lock-shards").open("a+b") as shards:
            for part in parts:
                try:
                    fcntl.lockf(shards, fcntl.LOCK_EX | fcntl.LOCK_NB, len(part), part.start)
                except OSError:
                    raise ConfigError(
                        f"{command}: some of the shards {part.start}-{part.stop - 1} of {out} are "
                        "being written by another process; give other --shards, or wait"
                    ) from None
            yield lambda: _try_lock(file, fcntl.LOCK_EX) is True


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Critical section among the processes that share a folder; blocks until it is free."""
    with (out / ".lock-setup").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_locked(out: Path, kind: int) -> tuple[IO[str], bool | None]:
    """Open the lock's file, and lock it if nobody else has, as `_try_lock`."""
    while True:
        file = (out / LOCK).open("a+", encoding="utf-8")
        is_free = _try_lock(file, kind)
        # Somebody may have taken the folder over meanwhile, with a new file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), (out / LOCK).stat()):
                return file, is_free
        file.close()


def _try_lock(file: IO[str], kind: int) -> bool | None:
    """Lock a file if nobody else has; None: its file system has no locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _take_over(out: Path, command: str, holder: Holder) -> IO[str]:
    """Put a new file in the place of one that another process keeps locked."""
    print(f"a2s: {command}: taking {out} over from {holder.name}", file=sys.stderr)
    new = out / f"{LOCK}.{uuid.uuid4().hex}.tmp"
    file = new.open("a+", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.replace(new, out / LOCK)
    return file


def _refuse_a_living_holder(out: Path, command: str, *, has_locks: bool) -> None:
    """Refuse a folder whose lock was free, or has no locks, though its holder is alive.

    Locks may not reach the machine of the holder, so its signs of life are waited for.

    Raises:
        ConfigError: the holder is alive.
    """
    holder = Holder.read(out)
    if not holder.token or os.environ.get(TAKEOVER):
        return
    if holder.is_here:
        # A lock that this machine's kernel gave tells that its process has ended.
        if not has_locks and state_of(holder.pid) is not None and holder.pid != os.getpid():
            raise ConfigError(f"{command}: {out} is in use by {holder.describe()}")
        return
    if holder.age_sec < STALE_SEC:
        left_sec = STALE_SEC - holder.age_sec
        print(
            f"a2s: {command}: {out} was in use by {holder.name} {holder.age_sec:.0f} s ago, on "
            f"another machine; waiting {left_sec:.0f} s for another sign of life",
            file=sys.stderr,
        )
    while holder.age_sec < STALE_SEC:
        time.sleep(min(1.0, max(0.05, STALE_SEC - holder.age_sec)))
        now = Holder.read(out)
        if now.token != holder.token or now.age_sec < holder.age_sec:
            raise ConfigError(f"{command}: {out} is in use by {now.describe()}")
        holder = now


@contextlib.contextmanager
def _signs_of_life(out: Path, command: str, file: IO[str]) -> Iterator[None]:
    """Say in the lock's file who holds it, and touch it until the block ends."""
    name = f"a2s {command}, pid {os.getpid()} on {socket.gethostname()}\n"
    token, ended = uuid.uuid4().hex, threading.Event()
    fields = {"pid": os.getpid(), "machine": machine_id(), "token": token}
    _rewrite(file, name + "".join(f"{key} {value}\n" for key, value in fields.items()))

    def beat() -> None:
        while not ended.wait(BEAT_SEC):
            # The disk may be away for a while; that is no reason to end.
            with contextlib.suppress(OSError):
                holder = Holder.read(out)
                if holder.name != _UNKNOWN and holder.token != token:
                    print(
                        f"a2s: {command}: {out} was taken over by {holder.name}; this process ends",
                        file=sys.stderr,
                        flush=True,
                    )
                    # At once: what is written now would be written by two.
                    os._exit(2)
                os.utime(file.fileno())

    thread = threading.Thread(target=beat, daemon=True, name="lock")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            _rewrite(file, name)


def _rewrite(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate(0)
    file.write(text)
    file.flush()


def _file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps the files of a folder; that of a server may differ."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"a2s")
        file.flush()
        return os.fstat(file.fileno()).st_mtime
