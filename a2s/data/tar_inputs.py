"""Tars as inputs of `a2s shard`: download or decompress them, list the offsets of their members."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from a2s.data.images import SUFFIXES
from a2s.data.keys import decode_key, encode_key
from a2s.data.open_files import MAX_FILE_BYTES
from a2s.data.shards import MASK, refuse_unsafe_member
from a2s.data.tar_headers import (
    END_MARKER,
    MORE_FOLLOWS,
    Header,
    has_bad_header,
    skip_to_next,
    why_it_ended,
    zeros_before_more,
)
from a2s.data.tar_streams import (
    TAR_ERRORS,
    decompressed,
    raise_if_of_the_system,
    refuse_without_space,
)
from a2s.errors import DataError
from a2s.storage.files import atomic_path, open_file
from a2s.storage.remote import is_remote, open_source

STAGING = ".staging"
"""Folder, in the output folder, of the copies of compressed and remote tars."""
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tzst")
_PLAIN_FILE = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_BLOCK = 512
_DRAIN_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One member of a tar; `problem` says why it cannot be used, empty if it can."""

    name: str
    suffix: str
    offset: int
    size: int
    key: str = ""
    is_mask: bool = False
    problem: str = ""
    detail: str = ""
    lost_share: float | None = 0.0
    """Share of the tar's bytes that a damage makes unreadable; None if it is not known."""

    @property
    def is_image(self) -> bool:
        """Whether the member has a key, that is, the suffix of an image."""
        return bool(self.key)


def is_tar(path: Path) -> bool:
    """Whether a file has the suffix of a tar, compressed or not."""
    return path.name.lower().endswith((".tar", *_COMPRESSED))


def local_tar(source: str, *, staging: Path, number: int) -> tuple[Path, list[Member]]:
    """Return an uncompressed local tar; copy the images of a remote or compressed one to `staging`.

    The second result lists what the copy lacks: images that are too large, and, if the stream is
    damaged, what comes after the damage.

    Raises:
        ConfigError: the tar is compressed with zstd, and the package that reads it is missing.
        DataError: the source cannot be opened, is no tar from its first byte on, expands without
            bound, or would fill the disk.
        StorageError: a download broke off.
    """
    if not is_remote(source) and not source.lower().endswith(_COMPRESSED):
        return Path(source), []
    staging.mkdir(exist_ok=True)
    path = staging / f"{number:06d}.tar"
    num_bytes, lacking = None, list[Member]()
    with open_source(source) as file, atomic_path(path) as temporary:
        try:
            stream = decompressed(file, source)
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as tar:
                damage, position = _copy_images(tar, temporary, source, lacking), tar.offset
                if not damage:
                    damage, position = _what_follows(tar)
        except TAR_ERRORS as error:
            raise_if_of_the_system(error)
            raise DataError(f"{source}: the tar is damaged ({error})") from error
        try:
            # The rest is read as well: its length says how much is lost, its end has the checksum.
            while stream.read(_DRAIN_BYTES):
                pass
            num_bytes = stream.tell()
        except TAR_ERRORS as error:
            raise_if_of_the_system(error)
            damage = damage or why_it_ended(error)
    if damage:
        lacking.append(_damaged(damage, position=position, num_bytes=num_bytes))
    return path, lacking


def _copy_images(tar: tarfile.TarFile, path: Path, source: str, lacking: list[Member]) -> str:
    """Copy the images of a stream to a tar; return why it ended before its end marker, or "".

    Those that are too large to be read later are added to `lacking`.
    """
    with (
        path.open("wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as copy,
    ):
        while True:
            complete = copy.offset
            if has_bad_header(tar):
                return why_it_ended(getattr(tar, "end", None))
            try:
                skip_to_next(tar)
                if (member := tar.next()) is None:
                    end = getattr(tar, "end", None)
                    return "" if isinstance(end, END_MARKER) else why_it_ended(end)
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all in memory
                if member.isdir() or _suffix(member.name) not in SUFFIXES:
                    continue
                # Only what is used: its other attributes may be impossible, such as its date.
                plain = tarfile.TarInfo(member.name)
                if member.type in _PLAIN_FILE and not member.issparse():
                    if member.size > MAX_FILE_BYTES:
                        lacking.append(_too_large(member))
                        continue
                    refuse_without_space(path.parent, member.size, source)
                    plain.size = member.size
                    copy.addfile(plain, tar.extractfile(member))
                else:  # the list of members says that it is no file
                    is_link = member.islnk() or member.issym()
                    plain.type = tarfile.SYMTYPE if is_link else tarfile.FIFOTYPE
                    plain.linkname = member.linkname
                    copy.addfile(plain)
                copy.members = []  # type: ignore[attr-defined]
            except TAR_ERRORS as error:
                raise_if_of_the_system(error)
                # Drop the member of which only a part came.
                file.seek(complete)
                file.truncate()
                copy.offset = complete
                return why_it_ended(error)


def _what_follows(tar: tarfile.TarFile) -> tuple[str, int]:
    """What is wrong with a stream after its end marker, or "", and where."""
    try:
        num_zeros = zeros_before_more(cast(IO[bytes], tar.fileobj))
    except TAR_ERRORS as error:
        raise_if_of_the_system(error)
        return why_it_ended(error), tar.offset
    if num_zeros is None:
        return "", tar.offset
    return MORE_FOLLOWS, tar.offset + _BLOCK + num_zeros


def _too_large(member: tarfile.TarInfo) -> Member:
    detail = f"{member.size:,} bytes are over the limit of {MAX_FILE_BYTES:,}"
    return Member(member.name, _suffix(member.name), -1, -1, problem="too_large", detail=detail)


def _damaged(why: str, *, position: int, num_bytes: int | None) -> Member:
    """A tar that cannot be read from a position on."""
    position = position if num_bytes is None else min(position, num_bytes)
    lost_bytes = None if num_bytes is None else num_bytes - position
    # Cut at the end of a member: nothing tells how much there was.
    share = lost_bytes / num_bytes if lost_bytes and num_bytes else None
    lost = f"{lost_bytes:,} bytes were not read" if lost_bytes else "what follows is lost"
    of = "" if num_bytes is None else f" of {num_bytes:,}"
    detail = f"{why} at byte {position:,}{of}; {lost}"
    return Member("", "", -1, -1, problem="damaged_tar", detail=detail, lost_share=share)


def tar_members(path: Path, *, source: str) -> Iterator[Member]:
    """List the members of an uncompressed local tar without reading their contents.

    A member with an unsafe name, and the position where the tar is damaged, have a `problem`.

    Raises:
        DataError: the file cannot be read, or is not a tar.
    """
    try:
        file = open_file(path)
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror})") from error
    num_bytes = os.fstat(file.fileno()).st_size
    with file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:", tarinfo=Header)  # noqa: SIM115
        except tarfile.TarError as error:
            raise DataError(f"{source}: not an uncompressed tar, or damaged ({error})") from error
        try:
            # A first header that is damaged only in part is no error to `tarfile`.
            while not has_bad_header(tar) and (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all in memory
                if not entry.isdir():
                    yield _member(entry, source=source, num_bytes=num_bytes)
            file.seek(min(tar.offset, num_bytes))
            # tarfile may stop early without an error; a complete tar ends with a block of zeros.
            damage, position = "", tar.offset
            if file.read(_BLOCK) != bytes(_BLOCK):
                damage = "no end marker"
            elif (num_zeros := zeros_before_more(file)) is not None:
                damage, position = MORE_FOLLOWS, tar.offset + _BLOCK + num_zeros
            if has_bad_header(tar):
                damage, position = why_it_ended(getattr(tar, "end", None)), tar.offset
        except tarfile.TarError as error:
            damage, position = str(error), tar.offset
        if damage:
            yield _damaged(damage, position=position, num_bytes=num_bytes)


def _member(entry: tarfile.TarInfo, *, source: str, num_bytes: int) -> Member:
    name = entry.name.removeprefix("./")
    suffix = _suffix(name)
    where = (name, suffix, entry.offset_data, entry.size)
    if suffix not in SUFFIXES:
        return Member(*where)
    is_mask = name.lower().endswith(f".{MASK}")
    stem = name[: -len(f".{MASK}")] if is_mask else name[: -len(suffix)]
    try:
        refuse_unsafe_member(name, source=source)
        key = _key(stem)
    except DataError as error:
        return Member(*where, problem="unsafe_name", detail=str(error))
    if entry.type not in _PLAIN_FILE or entry.issparse():
        return Member(*where, problem="not_a_file", detail=_what(entry))
    if entry.offset_data + entry.size > num_bytes:
        return Member(*where, problem="truncated", detail="the tar ends inside this member")
    return Member(*where, key=key, is_mask=is_mask)


def _what(entry: tarfile.TarInfo) -> str:
    if entry.islnk() or entry.issym():
        return f"a link to {entry.linkname!r}; pack the image that it leads to"
    return "a sparse file" if entry.issparse() else "a device or a named pipe"


def _key(stem: str) -> str:
    """Key of a member; a name that is a valid key already (as in a2s shards) is kept."""
    try:
        decode_key(stem)
    except DataError:
        return encode_key(stem)
    return stem


def _suffix(name: str) -> str:
    return os.fspath(PurePosixPath(name).suffix).lower()
