"""How the other ranks of a start learn that rank 0 of the same start has brought a folder here.

Each asks by a file that it has just named, and begins when that one is answered. So nothing that an
earlier start has left, perhaps with the same address and port, can be taken for an answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from a2s.errors import StorageError
from a2s.storage.objects.retries import Conflict
from a2s.storage.objects.stores import store_of

ASKS = ".asks"
LINGER_SEC = 60.0
"""How long rank 0, when it has nothing to do, waits for the others to ask."""
_ASK, _ANSWER = ".ask", ".answer"
_MAX_BYTES = 4096


class Place(Protocol):
    """Where the ranks of a start meet."""

    pause_sec: float
    """Between two looks."""

    def names(self) -> list[str]:
        """Names of the files there."""

    def read(self, name: str) -> bytes:
        """Read a file; nothing if there is none (any more)."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""


class OnMachine:
    """A folder of this machine's cache."""

    pause_sec = 0.1

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Names of the files there."""
        return sorted(os.listdir(self._folder)) if self._folder.is_dir() else []

    def read(self, name: str) -> bytes:
        """Read a file; nothing if there is none (any more)."""
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_MAX_BYTES)

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{name}.{os.getpid()}.tmp"
        temporary.write_bytes(data)
        temporary.replace(self._folder / name)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self._folder / name).unlink(missing_ok=True)


class InStore:
    """A folder of the store, for ranks on several machines."""

    pause_sec = 1.0

    def __init__(self, folder_url: str) -> None:
        self._url = f"{folder_url}/{ASKS}"

    def names(self) -> list[str]:
        """Names of the objects there."""
        found = store_of(self._url).find(self._url)
        return sorted(one.url.removeprefix(f"{self._url}/") for one in found)

    def read(self, name: str) -> bytes:
        """Read an object; nothing if there is none (any more)."""
        store = store_of(self._url)
        try:
            one = store.head(f"{self._url}/{name}")
            return b"" if one is None else store.read(one, 0, min(one.size, _MAX_BYTES))
        except (FileNotFoundError, Conflict):
            return b""

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""
        url = f"{self._url}/{name}"
        store_of(url).put(url, data, expect=None, token=uuid.uuid4().hex)

    def remove(self, name: str) -> None:
        """Delete an object, if it is there."""
        store_of(self._url).delete(f"{self._url}/{name}")


def ask(place: Place, *, start: str, patience_sec: float) -> str | None:
    """Ask rank 0 of a start, and return what it says; None if it has said nothing by then.

    Raises:
        StorageError: the store cannot be reached.
    """
    name, began_sec = uuid.uuid4().hex, time.monotonic()
    place.write(f"{name}{_ASK}", json.dumps({"start": start}).encode())
    try:
        while time.monotonic() - began_sec < patience_sec:
            if answer := place.read(f"{name}{_ANSWER}"):
                return str(json.loads(answer)["says"])
            time.sleep(place.pause_sec)
        return None
    finally:
        with contextlib.suppress(StorageError, OSError):
            # The question goes first: its end is what rank 0 waits for.
            place.remove(f"{name}{_ASK}")
            place.remove(f"{name}{_ANSWER}")


@contextlib.contextmanager
def answering(place: Place, *, start: str, says: str, others: int) -> Iterator[None]:
    """Within the block, answer the other ranks of a start; afterwards wait for the last ones."""
    host = _Host(place, start, says, others)
    thread = threading.Thread(target=host.run, daemon=True, name="host")
    thread.start()
    try:
        yield
        thread.join(LINGER_SEC)
    finally:
        host.ended.set()
        thread.join()
        with contextlib.suppress(StorageError, OSError):
            host.clear()


class _Host:
    """Answers the other ranks until each has its answer."""

    def __init__(self, place: Place, start: str, says: str, others: int) -> None:
        self.ended = threading.Event()
        self._place = place
        self._start = start
        self._says = json.dumps({"says": says}).encode()
        self._left = others
        self._answered: set[str] = set()

    def run(self) -> None:
        """Look for questions, and answer them."""
        while self._left > 0 and not self.ended.wait(self._place.pause_sec):
            # A store that is away for a while has the questions when it is back.
            with contextlib.suppress(StorageError, OSError):
                self._look()

    def clear(self) -> None:
        """Delete what ranks that were killed have left."""
        for name in self._answered:
            self._place.remove(f"{name}{_ASK}")
            self._place.remove(f"{name}{_ANSWER}")

    def _look(self) -> None:
        asked = {name.removesuffix(_ASK) for name in self._place.names() if name.endswith(_ASK)}
        for name in self._answered - asked:
            # A rank takes its question back when it has the answer.
            self._answered.remove(name)
            self._left -= 1
        for name in sorted(asked - self._answered):
            if self._is_of_this_start(self._place.read(f"{name}{_ASK}")):
                self._place.write(f"{name}{_ANSWER}", self._says)
                self._answered.add(name)

    def _is_of_this_start(self, question: bytes) -> bool:
        try:
            return bool(json.loads(question)["start"] == self._start)
        except (ValueError, KeyError, TypeError):
            return False
