"""The store behind a URL."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from a2s.errors import ConfigError, StorageError
from a2s.storage.objects.kinds.azure import Azure
from a2s.storage.objects.kinds.google import Google
from a2s.storage.objects.retries import retried
from a2s.storage.objects.s3 import S3, Object
from a2s.storage.objects.urls import WRITABLE

_stores: dict[tuple[int, str], Store] = {}
_KINDS: dict[str, Callable[[], Store]] = {"s3": S3, "gs": Google, "az": Azure}


class Store(Protocol):
    """Objects by their URL. Errors are those of `retried`."""

    @property
    def file_system(self) -> Any:
        """The file system of fsspec behind it."""

    def find(self, url: str) -> Iterator[Object]:
        """List the object with this URL, if there is one, and all below it."""

    def head(self, url: str) -> Object | None:
        """Describe an object; None if there is none."""

    def read(self, one: Object, start: int, end: int) -> bytes:
        """Read a range of bytes of an object."""

    def pieces(self, one: Object) -> Iterator[bytes]:
        """The bytes of an object, in order."""

    def put(self, url: str, data: bytes, *, expect: str | None, token: str) -> Object:
        """Write an object, if the one that is there has the etag `expect` (or none is there)."""

    def put_file(self, url: str, path: Path, *, expect: str | None, token: str) -> Object:
        """Write a file; otherwise as `put`."""

    def delete(self, url: str) -> None:
        """Delete an object."""


def store_of(url: str) -> Store:
    """The store of a URL; a process and its forks have one each.

    Raises:
        ConfigError: the package for this kind of URL is not installed.
    """
    scheme = url.partition(":")[0]
    key = (os.getpid(), scheme)
    if key not in _stores:
        make = _KINDS.get(scheme, functools.partial(_web, scheme))
        _stores[key] = retried(url, "opened", make)
    return _stores[key]


def _web(scheme: str) -> Store:
    # It brings aiohttp, which takes a while.
    from a2s.storage.objects.kinds.web import Web

    return Web(scheme)


def copy_to(one: Object, path: Path) -> None:
    """Copy an object to a file, a part at a time.

    Raises:
        FileNotFoundError, Conflict, StorageError: as `Store.read`.
    """
    store = store_of(one.url)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for piece in store.pieces(one):
            data = memoryview(piece)
            while data:
                data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_read_only(url: str) -> None:
    """Refuse to write where nothing can be written.

    Raises:
        ConfigError: the URL is of a web server.
    """
    scheme = url.partition(":")[0]
    if scheme not in WRITABLE:
        known = ", ".join(f"{one}://" for one in WRITABLE)
        raise ConfigError(f"{url}: {scheme}:// can only be read; write to a folder or to {known}")


def refuse_object(url: str) -> None:
    """Refuse to write into a folder of which there is an object.

    Raises:
        StorageError: there is one, or the store cannot be read.
    """
    _, _, name = url.partition("://")[2].partition("/")
    if name and store_of(url).head(url) is not None:
        raise StorageError(f"{url}: is an object, not a folder; give another one")
