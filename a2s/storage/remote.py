"""URLs as inputs: check the scheme, open as a stream."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO, cast

from a2s.errors import DataError

SCHEMES = ("file", "http", "https", "s3", "gs")


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
    """Open a local file or an allowed URL for reading.

    Raises:
        DataError: the scheme is not allowed, or the source cannot be opened.
    """
    text = str(path_or_url)
    try:
        if is_remote(text):
            import fsspec

            return cast(IO[bytes], fsspec.open(text, "rb").open())
        return Path(text.removeprefix("file://")).open("rb")
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{text}: cannot be opened ({error})") from error
