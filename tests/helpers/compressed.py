"""Every way to compress a tar that `a2s shard` reads."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable

import pytest


def zstd_compress(data: bytes) -> bytes:
    """In many blocks, as a tar has that is larger than one."""
    zstd = pytest.importorskip("backports.zstd", reason="NO ZSTD: pip install 'a2s[zstd]'")
    compressor = zstd.ZstdCompressor()
    starts = range(0, len(data), 4096)
    flush = compressor.FLUSH_BLOCK
    blocks = [compressor.compress(data[first : first + 4096], flush) for first in starts]
    return b"".join([*blocks, compressor.flush()])


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstd_compress,
}
