"""Locks of the processes of a machine, in its cache."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from a2s.errors import ConfigError
from a2s.storage.objects.urls import root


@contextlib.contextmanager
def locked(kind: str, name: str = "") -> Iterator[None]:
    """Critical section among the processes of a machine; names of a kind share 256 locks.

    Within a `folder` come `blob`s, within these `room`.
    """
    file = _open_lock(kind, hashlib.sha256(name.encode()).hexdigest()[:2])
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        _unlock(file)


@contextlib.contextmanager
def try_locked(kind: str, name: str) -> Iterator[bool]:
    """Whether no other process of this machine holds a lock of this name; holds it then."""
    file = _open_lock(kind, hashlib.sha256(name.encode()).hexdigest()[:40])
    is_free = True
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        yield is_free
    finally:
        _unlock(file)


def _unlock(file: int) -> None:
    # A process that was forked meanwhile has the file open too, which would keep the lock.
    fcntl.flock(file, fcntl.LOCK_UN)
    os.close(file)


def _open_lock(kind: str, digest: str) -> int:
    folder = root() / "locks"
    _make_private(folder)
    return os.open(folder / f"{kind}-{digest}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _make_private(folder: Path) -> None:
    try:
        root().mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True)
        if root().stat().st_uid != os.getuid():
            raise PermissionError(errno.EACCES, "it belongs to another user")
    except OSError as error:
        raise ConfigError(
            f"{folder}: the cache of objects cannot be made ({error.strerror}); set A2S_CACHE to a "
            "folder with space"
        ) from None
