"""Append JSON lines to a file of several writers: no line is lost, joined or half there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from a2s.errors import StorageError
from a2s.storage.parsing import json_line


@dataclass(frozen=True)
class Log:
    """The file, locked for this writer."""

    path: Path
    descriptor: int

    def append(self, lines: Iterable[Mapping[str, object]]) -> None:
        """Append lines, each whole or not at all, and sync them.

        Raises:
            StorageError: the disk is full, or fails.
        """
        for line in lines:
            start = os.fstat(self.descriptor).st_size
            text = (json_line(json.dumps(line, ensure_ascii=False)) + "\n").encode()
            try:
                if os.write(self.descriptor, text) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                os.ftruncate(self.descriptor, start)
                raise self._failed(error) from None
        try:
            os.fsync(self.descriptor)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> StorageError:
        return StorageError(f"{self.path}: cannot be written ({error.strerror})")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Log]:
    """Lock a file to append to it, alone; a last line without line break is removed.

    A killed writer leaves such a line; readers must ignore it. The file is made if there is none.

    Raises:
        StorageError: it cannot be opened, or is no regular file.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StorageError(f"{path}: cannot be written (not a regular file)")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _remove_torn_line(descriptor)
        yield Log(path, descriptor)
    finally:
        os.close(descriptor)


def _remove_torn_line(descriptor: int) -> None:
    """Shorten the file to its last whole line."""
    end = size = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 65_536)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            end = start + found + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)
