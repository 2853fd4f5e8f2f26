"""Tars as inputs of `a2s shard`: download or decompress them, list the offsets of their members."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from a2s.data.images import SUFFIXES
from a2s.data.keys import decode_key, encode_key
from a2s.data.shards import MASK, refuse_unsafe_member
from a2s.errors import DataError
from a2s.storage.files import atomic_path
from a2s.storage.remote import is_remote, open_source

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_PLAIN_FILE = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_BLOCK = 512


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

    @property
    def is_image(self) -> bool:
        """Whether the member has a key, that is, the suffix of an image."""
        return bool(self.key)


def is_tar(path: Path) -> bool:
    """Whether a file has the suffix of a tar, compressed or not."""
    return path.name.lower().endswith((".tar", *_COMPRESSED))


def local_tar(source: str, *, staging: Path, number: int) -> Path:
    """Return an uncompressed local tar; copy the images of a remote or compressed one to `staging`.

    Raises:
        DataError: the source cannot be downloaded or is damaged.
    """
    if not is_remote(source) and not source.lower().endswith(_COMPRESSED):
        return Path(source)
    staging.mkdir(exist_ok=True)
    path = staging / f"{number:06d}.tar"
    try:
        with (
            open_source(source) as file,
            tarfile.open(fileobj=file, mode="r|*") as tar,
            atomic_path(path) as temporary,
            tarfile.open(temporary, "w", format=tarfile.GNU_FORMAT) as copy,
        ):
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all in memory
                if member.type in _PLAIN_FILE and _suffix(member.name) in SUFFIXES:
                    copy.addfile(member, tar.extractfile(member))
                    copy.members = []  # type: ignore[attr-defined]
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{source}: the tar is damaged ({error})") from error
    return path


def tar_members(path: Path, *, source: str) -> Iterator[Member]:
    """List the members of an uncompressed local tar without reading their contents.

    A member with an unsafe name, and the position where the tar is damaged, have a `problem`.

    Raises:
        DataError: the file is not a tar.
    """
    num_bytes = path.stat().st_size
    try:
        tar = tarfile.open(path, "r:")  # noqa: SIM115
    except tarfile.TarError as error:
        raise DataError(f"{source}: not an uncompressed tar, or damaged ({error})") from error
    with tar, path.open("rb") as file:
        try:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all in memory
                if entry.type in _PLAIN_FILE:
                    yield _member(entry, source=source, num_bytes=num_bytes)
            file.seek(min(tar.offset, num_bytes))
            # tarfile may stop early without an error; a complete tar ends with a block of zeros.
            damage = "" if file.read(_BLOCK) == bytes(_BLOCK) else "no end marker"
        except tarfile.TarError as error:
            damage = str(error)
        if damage:
            detail = f"{damage} at byte {tar.offset} of {num_bytes}; the rest is lost"
            yield Member("", "", -1, -1, problem="damaged_tar", detail=detail)


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
    if entry.offset_data + entry.size > num_bytes:
        return Member(*where, problem="truncated", detail="the tar ends inside this member")
    return Member(*where, key=key, is_mask=is_mask)


def _key(stem: str) -> str:
    """Key of a member; a name that is a valid key already (as in a2s shards) is kept."""
    try:
        decode_key(stem)
    except DataError:
        return encode_key(stem)
    return stem


def _suffix(name: str) -> str:
    return os.fspath(PurePosixPath(name).suffix).lower()
