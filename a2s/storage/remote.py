"""URLs as inputs: check the scheme, open as a stream."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from a2s.errors import DataError, StorageError
from a2s.storage.files import open_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SCHEMES = ("file", "http", "https", "s3", "gs")
STALL_SEC = 120.0
"""A download over HTTP that brings no byte for this long has broken off."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_remote(path_or_url: str) -> bool:
    """Whether a source is a URL that must be downloaded.

    Raises:
        DataError: the scheme is not allowed, for example `pipe:`.
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
    return scheme[1].lower() != "file"


def open_source(path_or_url: str | Path) -> IO[bytes]:
    """Open a local file or an allowed URL, to read it once from its start.

    Reading a URL raises StorageError where the connection breaks.

    Raises:
        DataError: the scheme is not allowed, or the source cannot be opened.
    """
    text = str(path_or_url)
    if not is_remote(text):
        try:
            return open_file(text.removeprefix("file://"))
        except OSError as error:
            raise DataError(f"{text}: cannot be opened ({error})") from error
    try:
        import fsspec

        return cast(IO[bytes], _Download(fsspec.open(text, "rb", **_options(text)).open(), text))
    except Exception as error:  # Each protocol has a library, and each library its own errors.
        raise DataError(f"{text}: cannot be opened ({_named(error)})") from error


def _options(url: str) -> dict[str, Any]:
    if not url.lower().startswith("http"):
        return {}
    import aiohttp

    # One request for everything: many servers answer no request for a part of a file. aiohttp would
    # end it after five minutes.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=STALL_SEC, sock_read=STALL_SEC)
    return {"block_size": 0, "client_kwargs": {"timeout": timeout}}


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
        while filled < len(view) and (data := self._read(len(view) - filled)):
            view[filled : filled + len(data)] = data
            filled += len(data)
        return filled

    def _read(self, num_bytes: int) -> bytes:
        try:
            data: bytes = self._file.read(num_bytes)
        except Exception as error:  # As in `open_source`.
            raise StorageError(
                f"{self._url}: the download broke off after {self._position:,} bytes"
                f" ({_named(error)}); repeat the command, or download the file by other means"
            ) from error
        self._position += len(data)
        return data

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _named(error: Exception) -> str:
    kind = "timed out" if isinstance(error, TimeoutError) else type(error).__name__
    return " ".join(str(error).split()) or kind
