"""What comes out of a compressed or remote tar, as one stream with bounds."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import io
import lzma
import os
import tarfile
import zlib
from pathlib import Path
from typing import IO, Any

from a2s.errors import ConfigError, DataError

zstd: Any = None
with contextlib.suppress(ImportError):
    zstd = importlib.import_module("backports.zstd")

MAX_EXPANSION = 200
"""A compressed tar may hold this many times its own bytes. Photographs hardly shrink at all, and
drawn masks, as PNGs, are compressed already."""
EXPANSION_FLOOR = 2**30
"""So many bytes it may hold anyway."""
FREE_BYTES, FREE_SHARE = 2**30, 0.05
"""What copies of tars leave free on a disk, for the shards and for others: the less of the two."""
TAR_ERRORS: tuple[type[Exception], ...] = (
    *(tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError),
    *((zstd.ZstdError,) if zstd else ()),
)
"""What reading a damaged stream raises; see `raise_if_of_the_system`."""
_GZIP, _BZIP2, _XZ, _ZSTD = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd"
_BUFFER_BYTES = 1 << 20


def raise_if_of_the_system(error: BaseException) -> None:
    """Raise an error of the network or the disk; those of damaged streams have no number."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def decompressed(file: IO[bytes], source: str) -> IO[bytes]:
    """The stream inside a gzip, bzip2, xz or zstd stream; the stream itself if it is none.

    Reading it raises DataError where it has grown to more than `MAX_EXPANSION` times the file.

    Raises:
        ConfigError: it is compressed with zstd, and the package that reads it is missing.
    """
    buffered = io.BufferedReader(file, _BUFFER_BYTES)  # type: ignore[type-var]
    start = buffered.peek(len(_XZ))
    if start.startswith(_GZIP):
        return _Bounded(gzip.open(buffered), file, source)  # type: ignore[arg-type, return-value]
    if start.startswith(_BZIP2):
        return _Bounded(bz2.open(buffered), file, source)  # type: ignore[return-value]
    if start.startswith(_XZ):
        return _Bounded(lzma.open(buffered), file, source)  # type: ignore[return-value]
    if start.startswith(_ZSTD):
        if zstd is None:
            raise ConfigError(f"{source}: is compressed with zstd: pip install 'a2s[zstd]'")
        return _Bounded(zstd.open(buffered), file, source)  # type: ignore[return-value]
    return buffered


class _Bounded(io.RawIOBase):
    """Read-only stream that may not grow far beyond the file that it comes from."""

    def __init__(self, inside: IO[bytes], file: IO[bytes], source: str) -> None:
        self._inside, self._file, self._source = inside, file, source

    def read(self, size: int = -1) -> bytes:
        data = self._inside.read(size)
        allowed = max(EXPANSION_FLOOR, MAX_EXPANSION * self._file.tell())
        if (num_bytes := self._inside.tell()) > allowed:
            raise DataError(
                f"{self._source}: expands to over {MAX_EXPANSION} times its size, {num_bytes:,} "
                "bytes so far; refused. If it is what it should be, unpack it yourself, and give "
                "the folder"
            )
        return data

    def tell(self) -> int:
        return self._inside.tell()


def refuse_without_space(folder: Path, num_bytes: int, source: str) -> None:
    """Refuse to copy a member that would fill the disk.

    Raises:
        DataError: less than `FREE_BYTES` and `FREE_SHARE` of the disk would be left free.
    """
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    kept = min(FREE_BYTES, round(FREE_SHARE * disk.f_blocks * disk.f_frsize))
    if num_bytes > free - kept:
        raise DataError(
            f"{source}: its images do not fit on the disk of {folder}, which has {free:,} bytes "
            f"free ({kept:,} of them stay free); free some, give another --out, or unpack it "
            "yourself and give the folder"
        )
