"""File locks: one writer per output folder, or one writer per range of shards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from a2s.errors import ConfigError


@contextlib.contextmanager
def hold(
    out: Path, command: str, *, parts: Sequence[range] | None = None
) -> Iterator[Callable[[], bool]]:
    """Lock an output folder, or only the shards with the numbers `parts`.

    Yields a function to call once, at the end of the block: it upgrades the lock to the whole
    folder and returns whether that succeeded, that is, whether no other process is writing there.

    The kernel releases a lock when its process ends, so a killed run never blocks the next one.

    Raises:
        ConfigError: another process holds the lock of the folder or of some of these shards.
    """
    with (out / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if parts is None else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise ConfigError(f"{command}: {out} is in use by {holder}; wait, or stop it") from None
        if parts is None:
            file.truncate(0)
            file.write(f"a2s {command}, pid {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
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
            yield lambda: _try_exclusive(file)


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Critical section among the processes that share a folder; blocks until it is free."""
    with (out / ".lock-setup").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _try_exclusive(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
