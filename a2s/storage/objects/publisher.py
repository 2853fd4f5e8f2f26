"""Publish a working folder: what changed goes to the store, what declares it finished last.

Every write has the condition that the object is what this process last saw. So two writers cannot
both win, and a store always holds a state from which the same command resumes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from a2s.errors import StorageError
from a2s.storage.objects import cache, mirror
from a2s.storage.objects.lease import Lease, end_process
from a2s.storage.objects.mirror import Known
from a2s.storage.objects.order import LAST, is_first, is_last
from a2s.storage.objects.retries import Conflict
from a2s.storage.objects.s3 import ABSENT, MAX_PARTS, PART_BYTES, Object
from a2s.storage.objects.scan import State, scan, state_of
from a2s.storage.objects.stores import store_of
from a2s.storage.objects.urls import url_of
from a2s.storage.parsing import parse_yaml

INTERVAL_SEC = 10.0
SETTINGS = "config.yaml"
"""The one file that processes which share a folder all write."""
THREADS = 8
_ROUNDS = 10
MAX_BYTES = MAX_PARTS * PART_BYTES * 8
"""Size of the largest file that is published."""


class _Changing(Exception):
    """A file was written or deleted while it was being published; the next round has it."""


class Publisher:
    """Publishes a working folder every few seconds, and once more when it is closed."""

    def __init__(
        self,
        folder: Path,
        command: str,
        lease: Lease,
        known: dict[str, Known],
        *,
        concerns: Callable[[str], bool] = lambda name: True,
    ) -> None:
        """`concerns` tells which files are those of this process, where others share the folder."""
        self._folder = folder
        self._concerns = concerns
        self._url = str(url_of(folder))
        self._command = command
        self._lease = lease
        self._known = {name: one for name, one in known.items() if concerns(name)}
        self._guard = threading.RLock()
        self._ended = threading.Event()
        self._complained = False
        self._thread = threading.Thread(target=self._run, daemon=True, name="publisher")
        self._thread.start()

    def close(self) -> None:
        """Publish what is left.

        Raises:
            StorageError: the store cannot be reached; what is here is kept.
            Conflict: somebody else has written there.
        """
        self._ended.set()
        self._thread.join()
        try:
            self.publish_all()
        except Conflict:
            raise
        except StorageError as error:
            raise StorageError(
                f"{error}; what is not published stays on this machine, and the same command "
                "publishes it"
            ) from error

    def publish_all(self) -> None:
        """Bring the store up to date.

        Raises:
            StorageError: the store cannot be reached, or files change all the time.
            Conflict: somebody else has written there.
        """
        for _ in range(_ROUNDS):
            if self.publish():
                return
        raise StorageError(f"{self._url}: its files change while they are published")

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """A block in which only its own thread publishes."""
        with self._guard:
            yield

    def publish(self) -> bool:
        """Bring the store up to date; False if files changed meanwhile.

        Raises:
            StorageError: the store cannot be reached.
            Conflict: somebody else has written there.
        """
        with self._guard:
            before = dict(self._known)
            try:
                return self._publish()
            finally:
                if self._known != before:
                    mirror.write_known(self._folder, self._known)

    def take_in(self) -> None:
        """Bring here what tasks on other machines have put into the store (`elsewhere`).

        Raises:
            StorageError: the store cannot be reached.
            Conflict: somebody else has written there.
        """
        with self._guard:
            mirror.take_new(self._folder, self._known, self._lease.token, concerns=self._concerns)
            mirror.write_known(self._folder, self._known)

    def _run(self) -> None:
        pause_sec = INTERVAL_SEC
        while not self._ended.wait(pause_sec):
            began = time.monotonic()
            try:
                self.publish()
            except Conflict as error:
                end_process(self._command, str(error))
            except (StorageError, OSError) as error:
                if not self._complained:
                    self._complained = True
                    print(
                        f"a2s: {self._command}: {error}; work goes on, and is published later",
                        file=sys.stderr,
                    )
            # A folder of a million files is not looked through all the time.
            pause_sec = max(INTERVAL_SEC, 2 * (time.monotonic() - began))

    def _publish(self) -> bool:
        # What declares files finished is looked at first: so they are at least as new as it says.
        declared = {name: state for name, state in self._scan().items() if is_last(name)}
        files = {name: state for name, state in self._scan().items() if not is_last(name)}
        found = {**files, **declared}
        changed = {
            name: state
            for name, state in found.items()
            if state is not None and not self._is_known(name, state)
        }
        gone = self._known.keys() - found.keys()
        if not changed and not gone:
            return True
        self._lease.renew()
        last = sorted((changed[name].mtime_ns, name) for name in changed if is_last(name))
        first = [name for name in changed if is_first(name)]
        others = [name for name in changed if not is_first(name) and not is_last(name)]
        # A log grows all the time, which holds nothing else back.
        is_settled = self._put_all(first, found)
        self._withdraw(others)
        is_steady = self._put_all(others, found)
        # What a file declares finished must be there before it.
        for _, name in last if is_steady else ():
            is_steady = self._put_all([name], found) and is_steady
        if is_steady:
            for name in sorted(gone, key=lambda name: (not name.endswith(LAST), name)):
                store_of(self._url).delete(f"{self._url}/{name}")
                del self._known[name]
        return is_steady and is_settled

    def _scan(self) -> dict[str, State | None]:
        return {name: one for name, one in scan(self._folder).items() if self._concerns(name)}

    def _is_known(self, name: str, state: State) -> bool:
        known = self._known.get(name)
        return known is not None and (known.mtime_ns, known.size) == state

    def _withdraw(self, names: Iterable[str]) -> None:
        """Delete the manifests of files that are about to be replaced: they describe the old."""
        for name in names:
            manifest = os.path.splitext(name)[0] + LAST
            if name in self._known and manifest in self._known:
                store_of(self._url).delete(f"{self._url}/{manifest}")
                del self._known[manifest]

    def _put_all(self, names: list[str], found: dict[str, State | None]) -> bool:
        """Write some files; False if one of them changed meanwhile."""
        if not names:
            return True
        with ThreadPoolExecutor(min(THREADS, len(names))) as threads:
            return all(list(threads.map(lambda name: self._put(name, found[name]), names)))

    def _put(self, name: str, state: State | None) -> bool:
        assert state is not None, name
        path, url, known = self._folder / name, f"{self._url}/{name}", self._known.get(name)
        if state.size > MAX_BYTES:
            raise StorageError(f"{path}: {state.size:,} bytes are more than a store takes")
        # That of the job: a task on another machine may have written the same (`elsewhere`).
        expect, store, token = known.etag if known else ABSENT, store_of(url), self._lease.token
        try:
            if state.size <= PART_BYTES:
                data = _read(path, state, may_grow=is_first(name))
                is_data = not is_first(name) and not is_last(name)
                if is_data and known and _md5(data) == known.etag:
                    self._known[name] = Known(known.etag, *state)
                    return True
                one = self._put_small(name, data, expect=expect, token=token)
            else:
                one = store.put_file(url, path, expect=expect, token=token)
            if is_last(name) and store.head(url) is None:
                raise StorageError(
                    f"{url}: was written, and is not there; is it a store of objects?"
                )
            self._known[name] = Known(one.etag, *state)
            if state_of(path) != state:
                # Of a large file a mixture may have been written; its manifest waits.
                return False
        except (_Changing, FileNotFoundError):
            return False
        cache.adopt_if_large(path, one)
        return True

    def _put_small(self, name: str, data: bytes, *, expect: str, token: str) -> Object:
        """Write an object at once.

        Raises:
            Conflict: somebody else has, and not the settings that all share.
        """
        url = f"{self._url}/{name}"
        try:
            return store_of(url).put(url, data, expect=expect, token=token)
        except Conflict:
            there = store_of(url).head(url) if name == SETTINGS and expect == ABSENT else None
            if there is None:
                raise
            if _identity(store_of(url).read(there, 0, there.size)) != _identity(data):
                raise
            return there


def _identity(settings: bytes) -> object:
    """What processes that share a folder must agree on; the bytes, if they are no settings."""
    try:
        return parse_yaml(settings)["identity"]
    except (ValueError, KeyError, TypeError):
        return settings


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _read(path: Path, state: State, *, may_grow: bool) -> bytes:
    """The bytes of a file, if they are those of `state`; of a log, as many as it had then."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        data: bytes = file.read(state.size if may_grow else -1)
        if len(data) != state.size or (not may_grow and state_of(path) != state):
            raise _Changing
    return data
