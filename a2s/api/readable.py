"""Paths of what the API reads: a URL of an object store stands for a folder or file of its own."""

from __future__ import annotations

import os
from pathlib import Path

from a2s.storage.objects.mirror import fetched
from a2s.storage.objects.urls import is_url


def readable(path: str | os.PathLike[str]) -> Path:
    """The path itself; of a URL, that of a folder or file in the cache, as it is in the store now.

    Small files are here then, the others are fetched when they are opened.

    Raises:
        ConfigError: the URL names no object.
        StorageError: the store cannot be read.
    """
    text = os.fspath(path)
    return fetched(text) if is_url(text) else Path(path)
