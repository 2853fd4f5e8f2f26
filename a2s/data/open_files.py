"""Random reads: a file or tar member by its address, and a cache of open file descriptors."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2s.storage.files import open_file

OPEN_FILES = 32
MAX_FILE_BYTES = 2**30
"""Size of the largest image file that is read."""


@dataclass(frozen=True, slots=True)
class Address:
    """Location of bytes: a whole file (offset and size -1), or a byte range (a tar member)."""

    path: str | bytes
    offset: int = -1
    size: int = -1

    @property
    def is_file(self) -> bool:
        """Whether the address is a whole file."""
        return self.offset < 0

    def read(self, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """Read the bytes; fewer if the file ends earlier.

        Raises:
            OSError: reading fails, or the path is not a regular file; `errno.EFBIG` if there are
                more than `max_bytes`.
        """
        with open_file(self.path) as file:
            num_bytes = os.fstat(file.fileno()).st_size if self.is_file else self.size
            if num_bytes > max_bytes:
                detail = f"{num_bytes:,} bytes are over the limit of {max_bytes:,}"
                raise OSError(errno.EFBIG, detail)
            file.seek(max(self.offset, 0))
            return file.read(num_bytes)


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes that are in memory already, such as those of standard input; read like an address."""

    data: bytes
    is_file = False

    def read(self) -> bytes:
        """Return the bytes."""
        return self.data


class Descriptors:
    """Per-thread LRU cache of open files.

    `pread` does not move a file position, so forked processes may share the descriptors.
    """

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[Descriptors], tuple[list[Path]]]:
        return Descriptors, (self._paths,)

    def read(self, shard: int, *, offset: int, size: int) -> bytes:
        """Read `size` bytes at `offset` of file number `shard`."""
        files: OrderedDict[int, _File] | None = getattr(self._local, "files", None)
        if files is None:
            files = self._local.files = OrderedDict()
        if shard not in files:
            files[shard] = _File(self._paths[shard])
        files.move_to_end(shard)
        while len(files) > OPEN_FILES:
            files.popitem(last=False)
        return os.pread(files[shard].descriptor, size, offset)


class _File:
    """A file descriptor that is closed when the object is freed."""

    def __init__(self, path: Path) -> None:
        with open_file(path) as file:
            self.descriptor = os.dup(file.fileno())

    def __del__(self, close: Any = os.close) -> None:
        if hasattr(self, "descriptor"):
            close(self.descriptor)
