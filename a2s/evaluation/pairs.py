"""Predictions and truths by key: where each one lies, as a file or as a member of a shard."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from a2s.data.images import SUFFIXES
from a2s.data.keys import encode_key
from a2s.data.open_files import Address
from a2s.errors import DataError

if TYPE_CHECKING:
    from a2s.data.index import Index

# Where `a.png` and `a.jpg` lie together, the lossless one is the mask, the other its photograph.
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class PictureFile:
    """Where the bytes of one picture lie, and their checksum where they are part of a shard."""

    address: Address
    crc32: int = 0

    @property
    def path(self) -> str:
        """The file, or the shard that holds it."""
        return os.fsdecode(self.address.path)

    def read(self) -> bytes:
        """Read the bytes.

        Raises:
            DataError: the file cannot be read, or the span does not match its checksum.
        """
        address = self.address
        try:
            data = address.read()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from error
        if not address.is_file and (len(data) != address.size or zlib.crc32(data) != self.crc32):
            raise DataError(f"{self.path}: offset {address.offset} does not match its checksum")
        return data


@dataclass(frozen=True)
class PictureSet:
    """One side of a comparison.

    `locate` gives the address of a key; `fingerprint` changes when a picture does; `shadowed`
    lists files that gave way to another one of the same key.
    """

    keys: frozenset[str]
    locate: Callable[[str], PictureFile]
    fingerprint: str
    shadowed: list[str] = field(default_factory=list)


def find_images(folder: Path) -> PictureSet:
    """Find photographs: image files at any depth, or the members of data shards.

    Raises:
        DataError: the folder is missing or holds none.
    """
    index = _index(folder)
    if index is not None:
        return _from_index(index, masks=False)
    return _from_files(
        folder,
        lambda path, key: path.suffix.lower() in SUFFIXES,
        what="images",
        lossless_first=False,
    )


def find_predictions(folder: Path, *, wanted: frozenset[str]) -> PictureSet:
    """Find predicted maps: `KEY.png` files, or the main members of label shards.

    Cut-outs (`x.cutout.png`) count only where a truth of that very name is `wanted`.

    Raises:
        DataError: the folder is missing or holds none.
    """
    index = _index(folder)
    if index is not None:
        return _from_index(index, masks=False)

    def is_prediction(path: PurePosixPath, key: str) -> bool:
        return path.suffix == ".png" and (not path.stem.endswith(".cutout") or key in wanted)

    return _from_files(folder, is_prediction, what="predictions (KEY.png)")


def find_truths(folder: Path) -> PictureSet:
    """Find masks: image files at any depth, or the `mask.png` members of data shards.

    Raises:
        DataError: the folder is missing or holds none.
    """
    index = _index(folder)
    if index is not None:
        side = _from_index(index, masks=True)
        if not side.keys:
            raise DataError(f"{folder}: these shards hold no masks; pack them with --masks")
        return side
    return _from_files(
        folder, lambda path, key: path.suffix.lower() in SUFFIXES, what="masks (png, bmp, tif, jpg)"
    )


def only(side: PictureSet, keys: frozenset[str]) -> PictureSet:
    """Leave out the pictures whose key is not one of `keys`."""
    kept = side.keys & keys
    listed = hashlib.sha256("\n".join(sorted(kept)).encode()).hexdigest()
    return PictureSet(kept, side.locate, f"{side.fingerprint} {listed}", side.shadowed)


def _index(folder: Path) -> Index | None:
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise DataError(f"{folder}: {state}")
    if next(folder.glob("shard-*.json"), None) is None:
        return None
    from a2s.data.index import Index

    return Index.load(folder)


def _from_index(index: Index, *, masks: bool) -> PictureSet:
    offsets, sizes, checksums = (
        (index.mask_offset_N, index.mask_size_N, index.mask_crc32_N)
        if masks
        else (index.offset_N, index.size_N, index.crc32_N)
    )
    rows = {key: row for key, row in index.rows_by_key().items() if offsets[row] >= 0}

    def locate(key: str) -> PictureFile:
        row = rows[key]
        path = index.shards[int(index.shard_N[row])].path
        address = Address(str(path), int(offsets[row]), int(sizes[row]))
        return PictureFile(address, int(checksums[row]))

    return PictureSet(frozenset(rows), locate, index.fingerprint)


def _from_files(
    root: Path,
    accept: Callable[[PurePosixPath, str], bool],
    *,
    what: str,
    lossless_first: bool = True,
) -> PictureSet:
    found: dict[str, str] = {}
    shadowed = []
    state = hashlib.sha256()
    for relative in sorted(
        _walk(root), key=lambda text: (_is_lossless(text) != lossless_first, text)
    ):
        path = PurePosixPath(relative)
        key = encode_key(str(path.with_suffix("")))
        if not accept(path, key):
            continue
        if key in found:
            shadowed.append(relative)
            continue
        found[key] = relative
        try:
            status = os.stat(root / relative)
        except OSError:  # a link to nowhere, say: reading it will report that
            state.update(f"{key} unreadable\n".encode())
            continue
        state.update(f"{key} {status.st_size} {status.st_mtime_ns}\n".encode())
    if not found:
        raise DataError(f"{root}: no {what} here")

    def locate(key: str) -> PictureFile:
        return PictureFile(Address(str(root / found[key])))

    return PictureSet(frozenset(found), locate, state.hexdigest(), shadowed)


def _is_lossless(relative: str) -> bool:
    return PurePosixPath(relative).suffix.lower() in _LOSSLESS


def _walk(root: Path) -> Iterator[str]:
    """Yield the files below a folder, relative to it; hidden ones are half-written or not ours."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        inner = PurePosixPath(Path(folder).relative_to(root).as_posix())
        yield from (str(inner / name) for name in names if not name.startswith("."))
