"""Inputs of `a2s shard`: list folders, list files, single images and tars in one sorted table.

The table is columnar (Arrow), so millions of paths fit in memory. A row holds an address (file,
offset, size), not the bytes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from a2s.data.images import SUFFIXES
from a2s.data.keys import encode_key
from a2s.data.tar_inputs import is_tar, local_tar, tar_members
from a2s.errors import ConfigError, DataError
from a2s.storage.failures import Failure, as_text, failure
from a2s.storage.files import read_text
from a2s.storage.remote import is_remote

SCHEMA = pa.schema(
    {
        "key": pa.large_string(),
        "input": pa.int32(),
        # File names need not be UTF-8.
        "path": pa.large_binary(),
        "member": pa.large_string(),
        "offset": pa.int64(),
        "size": pa.int64(),
    }
)
_CHUNK = 65_536
_ORDER = [(name, "ascending") for name in ("key", "input", "path", "offset")]


@dataclass(frozen=True)
class FoundImages:
    """Images found in the inputs, and files that are left out.

    `images` has the columns of SCHEMA, then those of the mask with the prefix `mask_`
    (`mask_path` is null without a mask). It is sorted by key; keys are unique. `failures` lists
    images rejected before they are read, `stray_masks` lists masks without an image, `skipped`
    counts other files by suffix.
    """

    images: pa.Table
    failures: list[Failure]
    stray_masks: list[Failure]
    skipped: dict[str, int]
    num_lost: int = 0
    """Estimate of the images in unreadable parts of damaged tars, beyond one failure per tar."""
    lost_is_known: bool = True
    """Whether every damaged tar says how many of its bytes were not read."""


def describe_lost(num_lost: int, *, lost_is_known: bool) -> Iterator[str]:
    """What damaged tars have lost, in lines of text."""
    if num_lost:
        yield f"about {num_lost:,} more images are lost in unreadable parts of damaged tars"
    if not lost_is_known:
        yield "a tar ends without its end marker, so nothing tells how much of it is lost"


def over_limit(rate: float, *, failed: int, total: int, num_lost: int, lost_is_known: bool) -> bool:
    """Whether more than `rate` of the images failed, those included that damaged tars have lost.

    A loss of unknown size is over every limit but 1.
    """
    return failed + num_lost > rate * (total + num_lost) or (not lost_is_known and rate < 1)


@dataclass
class _Rows:
    """A table under construction."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    pending: list[tuple[object, ...]] = field(default_factory=list)
    count: int = 0

    def add(self, *row: object) -> None:
        self.pending.append(row)
        self.count += 1
        if len(self.pending) == _CHUNK:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self.pending, strict=True)
        arrays = [pa.array(c, kind) for c, kind in zip(columns, SCHEMA.types, strict=True)]
        self.batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self.pending = []

    def sorted_table(self) -> pa.Table:
        if self.pending:
            self._flush()
        table = pa.Table.from_batches(self.batches, schema=SCHEMA)
        return table.take(pc.sort_indices(table, sort_keys=_ORDER))


@dataclass
class _Collector:
    out: Path
    masks_folder: Path | None
    images: _Rows = field(default_factory=_Rows)
    masks: _Rows = field(default_factory=_Rows)
    failures: list[Failure] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    num_lost: int = 0
    lost_is_known: bool = True

    def add(self, rows: _Rows, number: int, path: bytes, relative: str) -> None:
        """Add one file; its key is derived from its path relative to the input's root."""
        try:
            key = encode_key(relative.rpartition(".")[0])
        except DataError as error:
            self.failures.append(failure("", os.fsdecode(path), "bad_name", str(error)))
            return
        rows.add(key, number, path, "", -1, -1)

    def folder(self, rows: _Rows, number: int, root: Path, *, leave_out: list[Path]) -> None:
        before = rows.count + len(self.failures)
        for path, relative in _walk(root, leave_out=leave_out):
            suffix = os.path.splitext(relative)[1].lower()
            if suffix in SUFFIXES:
                self.add(rows, number, os.fsencode(path), relative)
            else:
                self.skipped[suffix or "without suffix"] += 1
        if rows.count + len(self.failures) == before:
            others = sum(self.skipped.values())
            hint = f" (name tars explicitly: {root}/*.tar)" if self.skipped[".tar"] else ""
            raise DataError(
                f"{root}: holds no images ({', '.join(SUFFIXES)}), {others} other files{hint}"
            )

    def list_file(self, number: int, path: Path) -> None:
        """Add the files that a list file names, one path per line, relative to the list's folder.

        Keys are relative to the list's folder. If an entry lies outside it, keys are relative to
        the deepest common folder of all entries.
        """
        try:
            lines = read_text(path, errors="surrogateescape").split("\n")
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        # Only line breaks end a name; `splitlines` would also split at other control characters.
        named = [line.removesuffix("\r") for line in lines if line.strip()]
        entries = [os.path.normpath(path.parent / line) for line in named]
        if not entries:
            raise DataError(f"{path}: the list is empty; it needs one image path per line")
        root = str(path.parent)
        if os.path.commonpath([root, *entries]) != root:
            root = os.path.commonpath([os.path.dirname(entry) for entry in entries])
        for entry in entries:
            if os.path.splitext(entry)[1].lower() in SUFFIXES:
                self.add(self.images, number, os.fsencode(entry), os.path.relpath(entry, root))
            else:
                self.skipped[os.path.splitext(entry)[1].lower() or "without suffix"] += 1

    def tar(self, number: int, source: str) -> None:
        """Add the images and `.mask.png` members of a tar; download a remote tar first."""
        path, damage = local_tar(source, staging=self.out / ".staging", number=number)
        before, num_images = self.images.count + len(self.failures), self.images.count
        for member in chain(tar_members(path, source=source), [damage] if damage else []):
            shown = as_text(f"{source}/{member.name}")
            if member.problem:
                self.failures.append(failure("", shown, member.problem, member.detail))
                self.count_lost(member.lost_share, self.images.count - num_images)
            elif member.is_image:
                rows = self.masks if member.is_mask else self.images
                where = (os.fsencode(path), shown, member.offset, member.size)
                rows.add(member.key, number, *where)
            else:
                self.skipped[member.suffix or "without suffix"] += 1
        if self.images.count + len(self.failures) == before:
            raise DataError(f"{source}: the tar holds no images ({', '.join(SUFFIXES)})")

    def count_lost(self, share: float | None, num_read: int) -> None:
        """Estimate the images in the lost `share` of a tar from those that were read."""
        if share is None:
            self.lost_is_known = False
        elif share:
            self.num_lost += max(0, round(num_read * share / max(1 - share, 1e-9)) - 1)


def collect(inputs: Sequence[str], *, masks: Path | None, out: Path) -> FoundImages:
    """List all images of the inputs with their masks, without decoding.

    Raises:
        ConfigError: an input or the mask folder does not exist.
        DataError: an input holds no image, cannot be read, or is a URL that is not allowed.
    """
    masks = Path(os.path.abspath(masks)) if masks else None
    if masks and not masks.is_dir():
        raise ConfigError(f"--masks {masks}: no such folder")
    collector = _Collector(out, masks)
    excluded = [out, *([masks] if masks else [])]
    for number, source in enumerate(inputs):
        if is_remote(source):
            collector.tar(number, source)
            continue
        path = Path(os.path.abspath(source.removeprefix("file://")))
        if path.is_dir():
            if masks and path.samefile(masks):
                raise ConfigError(f"--masks {masks}: images and masks must be in different folders")
            collector.folder(collector.images, number, path, leave_out=excluded)
        elif not path.exists():
            raise ConfigError(f"{source}: no such file or folder")
        elif is_tar(path):
            collector.tar(number, str(path))
        elif path.suffix.lower() == ".txt":
            collector.list_file(number, path)
        elif path.suffix.lower() in SUFFIXES:
            collector.add(collector.images, number, os.fsencode(path), path.name)
        else:
            raise ConfigError(f"{source}: neither a folder, an image, a .txt list nor a .tar")
    if masks:
        collector.folder(collector.masks, len(inputs), masks, leave_out=[out])
    return _join(collector)


def _join(collector: _Collector) -> FoundImages:
    """Keep the first image of each key and attach the mask with the same key."""
    images, repeated = _first_of_each_key(collector.images.sorted_table())
    masks, extra_masks = _first_of_each_key(collector.masks.sorted_table())
    failures = [*collector.failures]
    failures += _failures(repeated, "duplicate_key", "an earlier image has the same key")
    owned = pc.is_in(masks["key"], value_set=images["key"])
    stray = _failures(masks.filter(pc.invert(owned)), "mask_without_image", "no image has this key")
    stray += _failures(extra_masks, "duplicate_mask", "an earlier mask has the same key")
    rows = pc.index_in(images["key"], value_set=masks["key"])
    for name in ("path", "member", "offset", "size"):
        images = images.append_column(f"mask_{name}", masks[name].take(rows))
    return FoundImages(
        images,
        failures,
        stray,
        dict(sorted(collector.skipped.items())),
        collector.num_lost,
        collector.lost_is_known,
    )


def _first_of_each_key(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    if len(table) < 2:
        return table, table.slice(0, 0)
    keys = table["key"].combine_chunks()
    same = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    repeated = pa.concat_arrays([pa.array([False]), same])
    return table.filter(pc.invert(repeated)), table.filter(repeated)


def _failures(table: pa.Table, reason: str, detail: str) -> list[Failure]:
    rows = table.select(["key", "path", "member"]).to_pylist()
    return [
        failure(row["key"], row["member"] or os.fsdecode(row["path"]), reason, detail)
        for row in rows
    ]


def _walk(root: Path, *, leave_out: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield (path, relative path) of all files below a folder, except hidden ones.

    Follows symbolic links, but not into a cycle.
    """
    excluded = {_identity(str(folder)) for folder in leave_out}
    pending = [(str(root), "", frozenset([_identity(str(root))]))]
    while pending:
        folder, prefix, parents = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not _is_dir(entry):
                yield entry.path, prefix + entry.name
                continue
            identity = _identity(entry.path)
            if identity not in parents and identity not in excluded:
                pending.append((entry.path, f"{prefix}{entry.name}/", parents | {identity}))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself. If its name is that of an image, reading it will report the failure.
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
