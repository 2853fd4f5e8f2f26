"""Open files for reading by address."""

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

OPEN_FILES = 32


class Descriptors:
    """A few open files per thread; ``pread`` has no position, so sharing them by fork is safe."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._local = threading.local()

    def __reduce__(self) -> tuple[type["Descriptors"], tuple[list[Path]]]:
        return Descriptors, (self._paths,)

    def read(self, shard: int, *, offset: int, size: int) -> bytes:
        """Bytes of one of the files, at an address."""
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
    """A descriptor that closes itself when forgotten."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self, close: Any = os.close) -> None:
        if hasattr(self, "descriptor"):
            close(self.descriptor)
