"""Objects by a file system of fsspec: to list, describe, read and delete.

gcsfs and adlfs can create an object on condition that there is none, but replace none on condition
that it is what one has seen. So objects are written by what lies below them (`google`, `azure`).
"""

from __future__ import annotations

import datetime
import email.utils
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from a2s.errors import DataError, StorageError
from a2s.storage.objects.retries import REQUEST_SEC, Conflict, retried
from a2s.storage.objects.s3 import TOKEN, Object, parts_of

TIMES = ("LastModified", "last_modified", "updated", "mtime", "created", "Last-Modified")
_VERSIONS = ("etag", "ETag", "Content-MD5")


class ByFsspec:
    """What all kinds have in common."""

    def __init__(self, scheme: str, file_system: Any) -> None:
        self._scheme = scheme
        self._fs = file_system

    @property
    def file_system(self) -> Any:
        """The file system of fsspec."""
        return self._fs

    def find(self, url: str) -> Iterator[Object]:
        """List the object with this URL, if there is one, and all below it."""
        try:
            found = retried(url, "listed", lambda: self._fs.find(self._key(url), detail=True))
        except FileNotFoundError:
            return
        yield from (self._object(info) for info in found.values())

    def head(self, url: str) -> Object | None:
        """Describe an object; None if there is none."""
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
        """Read a range of bytes of an object."""
        if end <= start:
            return b""
        return retried(one.url, "read", lambda: _whole(self._range(one, start, end), end - start))

    def pieces(self, one: Object) -> Iterator[bytes]:
        """The bytes of an object, in order and by range."""
        return parts_of(one, self.read)

    def put(self, url: str, data: bytes, *, expect: str | None, token: str) -> Object:
        """Write an object, if the one that is there has the etag `expect` (or none is there).

        Raises:
            Conflict: the condition does not hold, and it was not this call that has changed it.
            StorageError: it cannot be written.
        """
        return self._conditional(
            url, lambda: self._write(url, data, expect, token), len(data), token
        )

    def put_file(self, url: str, path: Path, *, expect: str | None, token: str) -> Object:
        """Write a file; otherwise as `put`."""
        size = path.stat().st_size
        return self._conditional(
            url, lambda: self._write_file(url, path, expect, token), size, token
        )

    def delete(self, url: str) -> None:
        """Delete an object; one that is gone already is none to complain about."""
        try:
            retried(url, "deleted", lambda: self._fs.rm_file(self._key(url)))
        except FileNotFoundError:
            return

    def _range(self, one: Object, start: int, end: int) -> bytes:
        data: bytes = self._fs.cat_file(self._key(one.url), start=start, end=end)
        return data

    def _write(self, url: str, data: bytes, expect: str | None, token: str) -> None:
        raise NotImplementedError

    def _write_file(self, url: str, path: Path, expect: str | None, token: str) -> None:
        raise NotImplementedError

    def _conditional(self, url: str, write: Callable[[], None], size: int, token: str) -> Object:
        try:
            retried(url, "written", write)
        except (Conflict, FileNotFoundError) as error:
            # A lost answer makes the repeated request fail on what the first one has written.
            there = self.head(url)
            if there is not None and there.token == token:
                return there
            if there is None and isinstance(error, FileNotFoundError):
                raise StorageError(
                    f"{url}: cannot be written (there is no such bucket, or no such object any "
                    "more)"
                ) from error
            raise Conflict(f"{url}: somebody else has written it meanwhile") from error
        there = self.head(url)
        if there is None or there.size != size:
            raise StorageError(f"{url}: was written, and is not there; is it a store of objects?")
        return there

    def _sync(self, coroutine: Callable[[], Any]) -> Any:
        from fsspec.asyn import sync

        return sync(self._fs.loop, coroutine, timeout=REQUEST_SEC)

    def _key(self, url: str) -> str:
        return url.partition("://")[2]

    def _url(self, name: str) -> str:
        return f"{self._scheme}://{name.lstrip('/')}"

    def _object(self, info: Mapping[str, Any]) -> Object:
        written = next((info[key] for key in TIMES if info.get(key)), None)
        token = (info.get("metadata") or {}).get(TOKEN.replace("-", "_"), "")
        etag, size = self._etag(info), int(info["size"])
        return Object(self._url(str(info["name"])), size, etag, _seconds(written), token=token)

    def _etag(self, info: Mapping[str, Any]) -> str:
        return next((str(info[key]) for key in _VERSIONS if info.get(key)), "").strip('"')


def metadata(token: str) -> dict[str, str]:
    """What goes with an object."""
    # Names of metadata in Azure are those of variables.
    return {TOKEN.replace("-", "_"): token}


def split(url: str) -> tuple[str, str]:
    """Bucket and name of an object."""
    bucket, _, name = url.partition("://")[2].partition("/")
    return bucket, name


def _whole(data: bytes, num_bytes: int) -> bytes:
    if len(data) != num_bytes:
        raise ConnectionError(f"{len(data):,} of {num_bytes:,} bytes came")
    return data


def _seconds(written: object) -> float:
    if isinstance(written, str):
        is_http = "," in written
        parse = email.utils.parsedate_to_datetime if is_http else datetime.datetime.fromisoformat
        written = parse(written)
    if isinstance(written, datetime.datetime):
        aware = written if written.tzinfo else written.replace(tzinfo=datetime.UTC)
        return aware.timestamp()
    return float(written) if isinstance(written, int | float) else time.time()
