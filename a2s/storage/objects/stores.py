"""The store behind a URL: S3 by its own protocol, the others by fsspec."""

from __future__ import annotations

import datetime
import email.utils
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from a2s.errors import ConfigError, DataError, StorageError
from a2s.storage.objects.retries import (
    CONNECT_SEC,
    REQUEST_SEC,
    STALL_SEC,
    Conflict,
    retried,
)
from a2s.storage.objects.s3 import ABSENT, PART_BYTES, S3, Object
from a2s.storage.objects.urls import WRITABLE

_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created", "Last-Modified")
_VERSIONS = ("etag", "ETag", "Content-MD5", "generation")
_stores: dict[tuple[int, str], Store] = {}


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
        make: Callable[[], Store] = S3 if scheme == "s3" else lambda: _ByFsspec(scheme)
        _stores[key] = retried(url, "opened", make)
    return _stores[key]


def copy_to(one: Object, path: Path) -> None:
    """Copy an object to a file, a part at a time.

    Raises:
        FileNotFoundError, Conflict, StorageError: as `Store.read`.
    """
    store = store_of(one.url)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        for start in range(0, one.size, PART_BYTES):
            data = memoryview(store.read(one, start, min(one.size, start + PART_BYTES)))
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


class _ByFsspec:
    """Google's and Microsoft's stores, and web servers.

    A new object is created only if there is none, by the store. Before one is replaced, its etag is
    compared; between that and the write another process may come, which only S3 can exclude.
    """

    def __init__(self, scheme: str, file_system: Any = None) -> None:
        import fsspec

        self._scheme = scheme
        self._whole: tuple[Object, bytes] | None = None
        self._is_web = scheme in ("http", "https")
        options: dict[str, Any] = {}
        if self._is_web:
            import aiohttp

            timeout = aiohttp.ClientTimeout(
                total=REQUEST_SEC, sock_connect=CONNECT_SEC, sock_read=STALL_SEC
            )
            options = {"client_kwargs": {"timeout": timeout}}
        self._fs = file_system or fsspec.filesystem(
            scheme, skip_instance_cache=True, use_listings_cache=False, **options
        )

    @property
    def file_system(self) -> Any:
        return self._fs

    def find(self, url: str) -> Iterator[Object]:
        if not self._is_web:
            try:
                found = retried(url, "listed", lambda: self._fs.find(self._key(url), detail=True))
            except FileNotFoundError:
                return
            yield from (self._object(info) for info in found.values())
        elif PurePosixPath(url).suffix:
            # To list a file, it would be read as the page of a folder.
            yield from filter(None, [self.head(url)])
        else:
            try:
                pages = retried(url, "listed", lambda: self._fs.find(f"{url}/", detail=False))
            except FileNotFoundError:
                return
            yield from filter(None, (self.head(page) for page in sorted(pages)))

    def head(self, url: str) -> Object | None:
        try:
            info = retried(url, "read", lambda: self._fs.info(self._key(url)))
        except FileNotFoundError:
            return None
        if info.get("type") == "directory":
            return None
        if info.get("size") is None:
            raise DataError(f"{url}: the server does not say how long it is; download it first")
        return self._object({**info, "name": self._key(url)})

    def read(self, one: Object, start: int, end: int) -> bytes:
        if self._whole is not None and self._whole[0] == one:
            return self._whole[1][start:end]
        self._whole = None

        def read() -> bytes:
            data: bytes = self._fs.cat_file(self._key(one.url), start=start, end=end)
            if len(data) == one.size != end - start:
                # A web server that answers no request for a part sends all of it, every time.
                self._whole = (one, data)
                data = data[start:end]
            if len(data) != end - start:
                raise ConnectionError(f"{len(data):,} of {end - start:,} bytes came")
            return data

        return retried(one.url, "read", read) if end > start else b""

    def put(self, url: str, data: bytes, *, expect: str | None, token: str) -> Object:
        self._compare(url, expect)
        mode = "create" if expect == ABSENT else "overwrite"
        try:
            retried(url, "written", lambda: self._fs.pipe_file(self._key(url), data, mode=mode))
        except Conflict:
            # A lost answer makes the repeated request fail on what the first one has written.
            there = self.head(url)
            if there is None or there.size != len(data) or self.read(there, 0, len(data)) != data:
                raise
        return self._written(url, len(data))

    def put_file(self, url: str, path: Path, *, expect: str | None, token: str) -> Object:
        self._compare(url, expect)
        retried(url, "written", lambda: self._fs.put_file(str(path), self._key(url)))
        return self._written(url, path.stat().st_size)

    def delete(self, url: str) -> None:
        try:
            retried(url, "deleted", lambda: self._fs.rm_file(self._key(url)))
        except FileNotFoundError:
            return

    def _compare(self, url: str, expect: str | None) -> None:
        refuse_read_only(url)
        if expect is None:
            return
        there = self.head(url)
        if (there.etag if there else ABSENT) != expect:
            raise Conflict(f"{url}: somebody else has written it meanwhile")

    def _written(self, url: str, size: int) -> Object:
        there = self.head(url)
        if there is None or there.size != size:
            raise StorageError(f"{url}: was written, and is not there; is it a store of objects?")
        return there

    def _key(self, url: str) -> str:
        return url if self._is_web else url.partition("://")[2]

    def _object(self, info: Mapping[str, Any]) -> Object:
        name = str(info["name"])
        url = name if self._is_web else f"{self._scheme}://{name.lstrip('/')}"
        written = next((info[key] for key in _TIMES if info.get(key)), None)
        # A web server that tells neither version nor date is taken to hold what it held.
        etag = next((str(info[key]) for key in _VERSIONS if info.get(key)), str(written or "-"))
        return Object(url, int(info["size"]), etag.strip('"'), _seconds(written))


def _seconds(written: object) -> float:
    if isinstance(written, str):
        is_http = "," in written
        parse = email.utils.parsedate_to_datetime if is_http else datetime.datetime.fromisoformat
        written = parse(written)
    if isinstance(written, datetime.datetime):
        aware = written if written.tzinfo else written.replace(tzinfo=datetime.UTC)
        return aware.timestamp()
    return float(written) if isinstance(written, int | float) else time.time()
