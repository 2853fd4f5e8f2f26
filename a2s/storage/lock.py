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
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from a2s.errors import ConfigError
from a2s.storage.files import naming
from a2s.storage.lock_holder import LOCK, STALE_SEC, UNKNOWN, Holder, read_record
from a2s.storage.processes import machine_id, state_of

TAKEOVER = "A2S_TAKEOVER"
"""Environment variable of `--takeover`."""
BEAT_SEC = 15.0
SETTLE_SEC = 3.0
"""Longer than network file systems keep attributes of files that others have changed."""
Waiting = Callable[[], contextlib.AbstractContextManager[None]]
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def hold(
    out: Path,
    command: str,
    *,
    parts: Sequence[range] | None = None,
    waiting: Waiting = contextlib.nullcontext,
) -> Iterator[Callable[[], bool]]:
    """Lock an output folder, or only the shards with the numbers `parts`.

    Yields a function to call once, at the end of the block: it upgrades the lock to the whole
    folder and returns whether that succeeded, that is, whether no other process is writing there.
    `waiting()` makes a block for the time in which it only waits, for signs of life of another
    holder.

    Raises:
        ConfigError: another process holds the lock of the folder or of some of these shards.
    """
    if parts is not None and os.environ.get(TAKEOVER):
        raise ConfigError(f"{command}: --takeover takes a whole folder over; leave out --shards")
    with contextlib.ExitStack() as stack:
        file, is_free = _open_locked(out, fcntl.LOCK_EX if parts is None else fcntl.LOCK_SH)
        stack.callback(os.close, file)
        if is_free is None and parts is not None:
            raise ConfigError(
                f"{command}: the file system of {out} has no file locks, which processes that "
                "share a folder (--shards) need; give each its own --out"
            )
        holder = Holder.read(out)
        if is_free is False:
            if not os.environ.get(TAKEOVER):
                raise ConfigError(f"{command}: {out} is in use by {holder.describe()}")
            file = _take_over(out, command, holder)
            stack.callback(os.close, file)
        with waiting():
            _refuse_a_living_holder(out, command, holder, has_locks=is_free is not None)
        # Where the kernel's word is not enough, two may come to this point at once.
        settles = not is_free or bool(holder.token and not holder.is_here)
        if parts is None:
            stack.enter_context(_signs_of_life(out, command, file, settles=settles))
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
            with _ending_if(lambda: not _is_at(out, file), out, command):
                yield lambda: _is_at(out, file) and _try_lock(file, fcntl.LOCK_EX) is True


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Critical section among the processes that share a folder; blocks until it is free."""
    with (out / ".lock-setup").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _open_locked(out: Path, kind: int) -> tuple[int, bool | None]:
    """Open the lock's file, and lock it if nobody else has, as `_try_lock`."""
    while True:
        # Not for appending: its text is replaced.
        file = os.open(out / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        is_free = _try_lock(file, kind)
        # Somebody may have taken the folder over meanwhile, with a new file.
        if _is_at(out, file):
            return file, is_free
        os.close(file)


def _is_at(out: Path, file: int) -> bool:
    """Whether an open file is still the lock's file of a folder."""
    try:
        return os.path.samestat(os.fstat(file), (out / LOCK).stat())
    except FileNotFoundError:
        return False


def _try_lock(file: int, kind: int) -> bool | None:
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


def _take_over(out: Path, command: str, holder: Holder) -> int:
    """Put a new file in the place of one that another process keeps locked."""
    print(f"a2s: {command}: taking {out} over from {holder.name}", file=sys.stderr)
    new = out / f".{LOCK}.{uuid.uuid4().hex[:8]}.tmp"
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.replace(new, out / LOCK)
    return file


def _refuse_a_living_holder(out: Path, command: str, holder: Holder, *, has_locks: bool) -> None:
    """Refuse a folder whose lock was free, or has no locks, though its holder is alive.

    Locks may not reach the machine of the holder, so its signs of life are waited for.

    Raises:
        ConfigError: the holder is alive.
    """
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
def _signs_of_life(out: Path, command: str, file: int, *, settles: bool) -> Iterator[None]:
    """Say in the lock's file who holds it, and touch it until the block ends.

    `settles`: wait first, and see whether somebody else has said the same.
    """
    name = f"a2s {command}, pid {os.getpid()} on {socket.gethostname()}\n"
    token = uuid.uuid4().hex
    fields = {"pid": os.getpid(), "machine": machine_id(), "token": token}
    with naming(out / LOCK):
        _rewrite(file, name + "".join(f"{key} {value}\n" for key, value in fields.items()))

    def is_ours() -> bool:
        said, found = read_record(out)
        return said == UNKNOWN or found.get("token") == token

    def was_lost() -> bool:
        if not is_ours():
            return True
        os.utime(file)
        return False

    if settles:
        time.sleep(SETTLE_SEC)
        if not is_ours():
            raise ConfigError(
                f"{command}: {out} was taken at the same time by {read_record(out)[0]}; wait, or "
                "stop it"
            )
    with _ending_if(was_lost, out, command):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if is_ours():
                    _rewrite(file, name)


@contextlib.contextmanager
def _ending_if(was_lost: Callable[[], bool], out: Path, command: str) -> Iterator[None]:
    """Ask every few seconds whether the lock was lost, until the block ends; end the process then.

    At once: what it wrote from then on would be written by two.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(BEAT_SEC):
            # The disk may be away for a while; that is no reason to end.
            with contextlib.suppress(OSError):
                if was_lost() and not ended.is_set():
                    print(
                        f"a2s: {command}: {out} was taken over by {read_record(out)[0]}; this "
                        "process ends",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(2)

    thread = threading.Thread(target=watch, daemon=True, name="lock")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _rewrite(file: int, text: str) -> None:
    os.pwrite(file, text.encode(), 0)
    os.ftruncate(file, len(text.encode()))
