"""URLs as inputs: check the scheme, open as a stream."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from a2s.errors import DataError, StorageError
from a2s.storage.files import open_file
from a2s.storage.objects import urls
from a2s.storage.objects.retries import why
from a2s.storage.objects.s3 import PART_BYTES, Object
from a2s.storage.objects.stores import store_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from a2s.storage.objects.kinds.web import Web

SCHEMES = ("file", *urls.SCHEMES)
MAX_STREAM_BYTES = 2**38
"""Size of the largest URL that is read as a stream."""
_READ_BYTES = 2**20

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_remote(path_or_url: str) -> bool:
    """Whether a source is a URL that must be downloaded.

    Raises:
        DataError: the scheme is not allowed, for example `pipe:`, or there is a password.
    """
    scheme = _SCHEME.match(path_or_url)
    if path_or_url.lower().startswith("pipe:") or "::" in path_or_url:
        raise DataError(f"{path_or_url}: refused, it could run a command; give a plain path or URL")
    if scheme is None:
        return False
    if scheme[1].lower() not in SCHEMES:
        raise DataError(
            f"{path_or_url}: scheme {scheme[1]} is not allowed; use one of {', '.join(SCHEMES)}"
        )
    if scheme[1].lower() == "file":
        return False
    _normal(path_or_url)
    return True


def _normal(url: str) -> str:
    try:
        return urls.normal(url)
    except ValueError as error:
        raise DataError(str(error)) from None


def download(url: str, *, max_bytes: int, max_sec: float) -> bytes:
    """Return what a URL holds; the time limit is for HTTP.

    Raises:
        DataError: the scheme is not allowed, there is nothing, or more than `max_bytes`.
        StorageError: the download broke off, took longer than `max_sec`, or could not begin.
    """
    data = bytearray()
    with _open_remote(url, max_sec=max_sec) as file:
        while part := file.read_some(_READ_BYTES):
            data += part
            if len(data) > max_bytes:
                raise DataError(f"{url}: more than {max_bytes:,} bytes; download it by other means")
    return bytes(data)


def open_source(path_or_url: str | Path) -> IO[bytes]:
    """Open a local file or an allowed URL, to read it once from its start.

    Reading a URL raises StorageError where the connection breaks.

    Raises:
        DataError: the scheme is not allowed, or there is no such source.
        StorageError: the store or server cannot be reached.
    """
    text = str(path_or_url)
    if not is_remote(text):
        try:
            return open_file(text.removeprefix("file://"))
        except OSError as error:
            raise DataError(f"{text}: cannot be opened ({error})") from error
    return cast(IO[bytes], _open_remote(text, max_sec=None))


def _open_remote(url: str, *, max_sec: float | None) -> _Download:
    url = _normal(url)
    store = store_of(url)
    try:
        if url.startswith("http"):
            return _Download(cast("Web", store).stream(url, max_sec=max_sec), url)
        one = store.head(url)
        if one is None:
            raise FileNotFoundError("no such object")
        return _Download(_Parts(one), url)
    except FileNotFoundError as error:
        raise DataError(f"{url}: cannot be opened (there is no such object)") from error


class _Parts:
    """An object as a stream, by requests for its parts, each of which is repeated if it fails."""

    def __init__(self, one: Object) -> None:
        self._one = one
        self._start = 0
        self._part = memoryview(b"")

    def read(self, num_bytes: int) -> bytes:
        if not self._part:
            end = min(self._one.size, self._start + PART_BYTES)
            self._part = memoryview(store_of(self._one.url).read(self._one, self._start, end))
            self._start = end
        data, self._part = self._part[:num_bytes], self._part[num_bytes:]
        return bytes(data)

    def close(self) -> None:
        self._part = memoryview(b"")


class _Download(io.RawIOBase):
    """A remote file as a stream, whose errors are one StorageError."""

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (data := self.read_some(len(view) - filled)):
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def read_some(self, num_bytes: int) -> bytes:
        """Read what has arrived, at most `num_bytes`; nothing at the end."""
        try:
            data: bytes = self._file.read(num_bytes)
        except (OSError, StorageError) as error:
            raise StorageError(
                f"{self._url}: the download broke off after {self._position:,} bytes"
                f" ({why(error)}); repeat the command, or download the file by other means"
            ) from error
        self._position += len(data)
        if self._position > MAX_STREAM_BYTES:
            raise StorageError(f"{self._url}: more than {MAX_STREAM_BYTES:,} bytes came; split it")
        return data

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
