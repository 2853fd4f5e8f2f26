"""One writer at a time in an output folder, or several that each write shards of their own."""

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
    """Hold a folder, or of a folder of shards those with these numbers.

    What is yielded says, once and at the end, whether no other process holds any of it; if so none
    will until the block is left.

    The kernel drops a lock with its holder, so a killed run never blocks the next one.

    Raises:
        ConfigError: another process holds it, or some of these shards.
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
        # A file of its own: closing any descriptor of a file drops all its record locks.
        with (out / ".lock-shards").open("a+b") as shards:
            for part in parts:
                try:
                    fcntl.lockf(shards, fcntl.LOCK_EX | fcntl.LOCK_NB, len(part), part.start)
                except OSError:
                    raise ConfigError(
                        f"{command}: some of the shards {part.start}-{part.stop - 1} of {out} are "
                        "being written by another process; give other --shards, or wait"
                    ) from None
            yield lambda: _taken(file)


@contextlib.contextmanager
def exclusive(out: Path) -> Iterator[None]:
    """Wait until none of the processes that share a folder is in such a block."""
    with (out / ".lock-setup").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
