"""Publish one file, such as a report or a model."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from a2s.errors import DataError
from a2s.storage.objects.s3 import ABSENT, PART_BYTES
from a2s.storage.objects.stores import copy_to, store_of
from a2s.storage.objects.urls import url_of


@contextlib.contextmanager
def published_file(path: Path) -> Iterator[None]:
    """Bring the object of a path here, if there is one, and publish what the block writes there.

    Raises:
        Conflict: somebody else has written it meanwhile.
        StorageError: the store cannot be reached.
    """
    url = str(url_of(path))
    store = store_of(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise DataError(f"{url}: is a folder on this machine; remove {path}")
    path.unlink(missing_ok=True)
    there = store.head(url)
    if there is not None:
        copy_to(there, path)
    before = _state(path)
    try:
        yield
        if (after := _state(path)) is not None and after != before:
            expect, token = there.etag if there else ABSENT, uuid.uuid4().hex
            if after[1] <= PART_BYTES:
                store.put(url, _read(path), expect=expect, token=token)
            else:
                store.put_file(url, path, expect=expect, token=token)
    finally:
        path.unlink(missing_ok=True)


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()
