"""Headers of tars that may lie: `tarfile` believes every number, and ends at errors silently."""

from __future__ import annotations

import tarfile
from typing import IO, Any

_EXTENSIONS = (
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
)
"""Types of headers that are read whole: a long name, or the attributes of the next member."""
_MAX_EXTENSION_BYTES = 1 << 20
_MAX_OFFSET = 1 << 43
"""Larger than any file of ext4, and small enough to seek."""
_BadHeader = tarfile.InvalidHeaderError  # type: ignore[attr-defined]
_NO_HEADER = (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError)
"""What `tarfile` raises besides its own errors when numbers in a header are none."""
_BUFFER_BYTES = 1 << 20
MORE_FOLLOWS = "data after the end marker, as of tars that were joined"
END_MARKER = tarfile.EOFHeaderError  # type: ignore[attr-defined]
_END_OF_FILE = tarfile.EmptyHeaderError  # type: ignore[attr-defined]


class Header(tarfile.TarInfo):
    """A tar header that tells its archive why the last one could not be read.

    `tarfile` itself ends at a damaged header as at the end marker, without an error. It believes
    every size: a negative one would lead it back to where it was, for ever.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
        """Parse one block; refuse a size that is negative, or that of gigabytes for a name."""
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > _MAX_EXTENSION_BYTES):
            raise _BadHeader(f"impossible size {header.size:,}")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Header:
        """Read the next header and those that extend it; `archive.end` says why there is none."""
        start = archive.offset
        try:
            header = super().fromtarfile(archive)
            if header.size < 0 or archive.offset <= start:
                archive.offset = start
                raise _BadHeader("impossible size in its extended header")
        except tarfile.HeaderError as error:
            archive.end = error  # type: ignore[attr-defined]
            raise
        except (*_NO_HEADER, RecursionError) as error:
            archive.end = _BadHeader(f"unreadable header, {type(error).__name__}")  # type: ignore[attr-defined]
            raise archive.end from None  # type: ignore[attr-defined]
        # Where a member of 2**62 bytes would end, no file can be sought.
        archive.offset = min(archive.offset, _MAX_OFFSET)
        return header


def has_bad_header(tar: tarfile.TarFile) -> bool:
    """Whether a header could not be read, other than at the end of the tar."""
    end = getattr(tar, "end", None)
    return end is not None and not isinstance(end, END_MARKER | _END_OF_FILE)


def skip_to_next(tar: tarfile.TarFile) -> None:
    """Read to the next header; `tarfile` itself would go on for hours after the stream's end.

    Raises:
        tarfile.ReadError: the stream ends before.
    """
    stream: Any = tar.fileobj
    if tar.firstmember is not None:  # type: ignore[attr-defined]
        return  # its header is read, but not its content
    while (missing := tar.offset - 1 - stream.tell()) > 0:
        if not stream.read(min(_BUFFER_BYTES, missing)):
            raise tarfile.ReadError("unexpected end of data")


def zeros_before_more(file: IO[bytes]) -> int | None:
    """How many zeros follow before anything else does; None if nothing does.

    After its end marker a tar is filled up with zeros. Anything else is another tar that was joined
    to it, or members behind a part that was zeroed.
    """
    num_zeros = 0
    while data := file.read(_BUFFER_BYTES):
        if rest := data.lstrip(b"\0"):
            return num_zeros + len(data) - len(rest)
        num_zeros += len(data)
    return None


def why_it_ended(error: BaseException | None) -> str:
    """What is wrong with a tar that ended with this error of its last header."""
    if error is None or isinstance(error, _END_OF_FILE):
        return "no end marker"
    return str(error) or type(error).__name__
