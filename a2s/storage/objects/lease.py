"""The lock of a folder in a store: an object that its holder writes again and again.

It is created or replaced on condition that it is what was last read, so that of two processes one
gets it. A holder without a sign of life for a minute has lost it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from a2s.errors import ConfigError, StorageError
from a2s.storage.lock import TAKEOVER
from a2s.storage.objects.retries import Conflict
from a2s.storage.objects.s3 import ABSENT
from a2s.storage.objects.stores import store_of
from a2s.storage.processes import machine_id, state_of

NAME = ".lock"
PARTS = ".locks"
"""Folder of the locks of processes that share a folder, each with shards of its own."""
BEAT_SEC = 15.0
STALE_SEC = 60.0
MAX_BYTES = 4096


@dataclass(frozen=True)
class _Record:
    """What a holder has written, and the etag of that; without token it was released."""

    etag: str
    holder: str = "another process"
    pid: int = 0
    machine: str = ""
    token: str = ""
    age_sec: float = 0.0


class Lease:
    """A lock that this process holds."""

    def __init__(self, url: str, etag: str, record: dict[str, Any]) -> None:
        self.url = url
        self._etag = etag
        self._record = record
        self._guard = threading.Lock()

    @property
    def token(self) -> str:
        """What tells this holder from all others."""
        return str(self._record["token"])

    def renew(self) -> None:
        """Give a sign of life.

        Raises:
            Conflict: somebody else has taken the lock over.
            StorageError: the store cannot be reached.
        """
        with self._guard:
            self._etag = _write(self.url, self._record, expect=self._etag)

    def release(self) -> None:
        """Give the lock back; a store that cannot be reached lets it become stale."""
        with self._guard, contextlib.suppress(StorageError):
            _write(self.url, {**self._record, "token": ""}, expect=self._etag)


@contextlib.contextmanager
def hold(folder_url: str, command: str, *, parts: Sequence[range] | None = None) -> Iterator[Lease]:
    """Hold the lock of a folder, or of the shards numbered in `parts`, until the block ends.

    A process that loses it ends at once.

    Raises:
        ConfigError: another process holds the folder, or some of these shards.
        StorageError: the store cannot be reached.
    """
    name = NAME if parts is None else f"{PARTS}/{_name_of(parts)}"
    lease = _acquire(f"{folder_url}/{name}", folder_url, command)
    try:
        # Each is there before it looks for the others, so of two at least one sees the other.
        _refuse_others(folder_url, command, parts)
    except BaseException:
        lease.release()
        raise
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SEC):
            try:
                lease.renew()
            except Conflict:
                end_process(command, f"{folder_url} was taken over by another process")
            except StorageError:
                # The store may be away for a while; whoever takes over meanwhile is found later.
                continue

    thread = threading.Thread(target=beat, daemon=True, name="lease")
    thread.start()
    try:
        yield lease
    finally:
        ended.set()
        thread.join()
        lease.release()


def is_held(url: str, token: str) -> bool:
    """Whether the holder with this token still has a lock.

    Raises:
        StorageError: the store cannot be reached.
    """
    there = _read(url)
    return there is not None and there.token == token


def end_process(command: str, why: str) -> None:
    """End this process at once: what it wrote from now on would be written by two."""
    print(f"a2s: {command}: {why}; this process ends", file=sys.stderr, flush=True)
    os._exit(2)


def _name_of(parts: Sequence[range]) -> str:
    return "_".join(f"{part.start}-{part.stop - 1}" for part in parts)


def _parts_of(name: str) -> list[range]:
    """Shards of a lock by its name; none if the name is of another form."""
    found = re.findall(r"(\d+)-(\d+)", name)
    return [range(int(first), int(last) + 1) for first, last in found]


def _refuse_others(folder_url: str, command: str, parts: Sequence[range] | None) -> None:
    """Refuse a folder, or shards of it, in which others are at work.

    Raises:
        ConfigError: there are others.
    """
    others = [one.url for one in store_of(folder_url).find(f"{folder_url}/{PARTS}")]
    if parts is not None:
        own = _name_of(parts)
        names = {url: url.rpartition("/")[2] for url in others}
        others = [
            url
            for url, name in names.items()
            if name != own and any(_overlap(a, b) for a in _parts_of(name) for b in parts)
        ]
        others.append(f"{folder_url}/{NAME}")
    for url in others:
        there = _read(url)
        if there is None or not there.token:
            continue
        is_here = there.machine == machine_id()
        if state_of(there.pid) is not None if is_here else there.age_sec < STALE_SEC:
            what = folder_url if parts is None or url.endswith(f"/{NAME}") else url
            raise ConfigError(f"{command}: {what} is in use by {there.holder}; wait, or stop it")


def _overlap(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _acquire(url: str, folder_url: str, command: str) -> Lease:
    machine = machine_id()
    takes_over = bool(os.environ.get(TAKEOVER))
    holder = f"a2s {command}, pid {os.getpid()} on {socket.gethostname()}"
    token = uuid.uuid4().hex
    record = {"holder": holder, "pid": os.getpid(), "machine": machine, "token": token}
    first: _Record | None = None
    began_sec = time.monotonic()
    while True:
        there = _read(url)
        if there is not None and there.token:
            if takes_over:
                taken = f"taking {folder_url} over from {there.holder}"
                print(f"a2s: {command}: {taken}", file=sys.stderr)
            elif _may_be_alive(there, first, machine, began_sec, f"{command}: {folder_url}"):
                first = first or there
                time.sleep(min(1.0, STALE_SEC / 4))
                continue
        try:
            etag = _write(url, record, expect=there.etag if there else ABSENT)
        except Conflict:
            # Somebody was faster; see who.
            takes_over = False
            continue
        return Lease(url, etag, record)


def _may_be_alive(
    there: _Record, first: _Record | None, machine: str, began_sec: float, what: str
) -> bool:
    """Whether a holder of whom nothing was heard may still be heard of.

    Raises:
        ConfigError: it is alive.
    """
    in_use = f"{what} is in use by {there.holder}; wait, or stop it"
    if there.machine == machine:
        if there.pid != os.getpid() and state_of(there.pid) is not None:
            raise ConfigError(in_use)
        return False
    if first is not None and there.etag != first.etag:
        raise ConfigError(in_use)
    if max(there.age_sec, time.monotonic() - began_sec) >= STALE_SEC:
        return False
    if first is None:
        print(
            f"a2s: {what} was in use by {there.holder} {there.age_sec:.0f} s ago, on another "
            f"machine; waiting up to {STALE_SEC:.0f} s for another sign of life",
            file=sys.stderr,
        )
    return True


def _read(url: str) -> _Record | None:
    """What is in the lock's object; None if there is none."""
    store = store_of(url)
    one = store.head(url)
    if one is None:
        return None
    try:
        data = json.loads(store.read(one, 0, min(one.size, MAX_BYTES)))
        age_sec = max(0.0, (one.now_sec or time.time()) - one.written_sec)
        return _Record(
            one.etag,
            str(data["holder"]),
            int(data["pid"]),
            str(data["machine"]),
            str(data["token"]),
            age_sec,
        )
    except (FileNotFoundError, Conflict):
        return _read(url)
    except (ValueError, KeyError, TypeError):
        return _Record(one.etag)


def _write(url: str, record: dict[str, Any], *, expect: str) -> str:
    # Never twice the same bytes, so that each has an etag of its own.
    data = json.dumps({**record, "beat": uuid.uuid4().hex}).encode()
    return store_of(url).put(url, data, expect=expect, token=uuid.uuid4().hex).etag
