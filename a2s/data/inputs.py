"""Inputs of `a2s shard`: list folders, list files, single images and tars in one sorted table.

The table is columnar (Arrow), so millions of paths fit in memory. A row holds an address (file,
offset, size), not the bytes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from a2s.data.file_tree import read_entries, refuse_linked, refuse_overlap, walk
from a2s.data.images import SUFFIXES
from a2s.data.input_rows import Rows, first_of_each_key, rejected
from a2s.data.keys import encode_key
from a2s.data.listed_tars import ListedTar, listed_tar
from a2s.data.mask_names import MaskNames, suggestion
from a2s.data.own_pictures import is_in_results, is_result
from a2s.data.tar_inputs import STAGING, is_tar, local_tar, tar_members
from a2s.errors import ConfigError, DataError
from a2s.storage.failures import Failure, as_text, failure
from a2s.storage.parsing import printable
from a2s.storage.remote import is_remote

_COMPARED = 200
"""Images and masks among which a pattern is looked for that would pair them."""


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
    tars: list[ListedTar] = field(default_factory=list)


def _with_suffix(entry: str) -> str | None:
    """The image file that a line of a list means, which may lack its suffix."""
    if os.path.splitext(entry)[1].lower() in SUFFIXES:
        return entry
    names = (entry + suffix for suffix in (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)))
    return next((name for name in names if os.path.exists(name)), None)


@dataclass
class _Collector:
    out: Path
    masks_folder: Path | None
    mask_names: MaskNames | None = None
    apart_from: Path | None = None
    images_among_masks: bool = False
    """Whether an input lies in the masks' folder, so that files of other names are images."""
    images: Rows = field(default_factory=Rows)
    masks: Rows = field(default_factory=Rows)
    failures: list[Failure] = field(default_factory=list)
    stray_masks: list[Failure] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    num_lost: int = 0
    lost_is_known: bool = True
    tars: list[ListedTar] = field(default_factory=list)

    def add(self, rows: Rows, number: int, path: bytes, relative: str) -> None:
        """Add one file; its key is derived from its path relative to the input's root."""
        try:
            key = encode_key(relative.rpartition(".")[0])
        except DataError as error:
            self.failures.append(failure("", os.fsdecode(path), "bad_name", str(error)))
            return
        rows.add(key, number, path, "", -1, -1)

    def folder(self, rows: Rows, number: int, root: Path, *, leave_out: list[Path]) -> None:
        before = rows.count + len(self.failures)
        results: dict[str, bool] = {}
        files = walk(root, leave_out=leave_out, apart_from=self.apart_from, skipped=self.skipped)
        for path, relative in files:
            suffix = os.path.splitext(relative)[1].lower()
            if is_in_results(os.path.dirname(path), str(root), results):
                self.skipped["in folders that a2s wrote"] += 1
            elif suffix not in SUFFIXES:
                self.skipped[suffix or "without suffix"] += 1
            elif rows is self.images and self.is_named_mask(path):
                continue
            elif rows is self.images and is_result(Path(path)):
                self.skipped["written by a2s predict"] += 1
            elif rows is self.masks and self.mask_names is not None:
                self.named_mask(number, path, relative)
            else:
                self.add(rows, number, os.fsencode(path), relative)
        if rows.count + len(self.failures) == before and not self.stray_masks:
            hint = f" (name tars explicitly: {root}/*.tar)" if self.skipped[".tar"] else ""
            others = f"{sum(self.skipped.values())} other files{hint}"
            raise DataError(f"{root}: holds no images ({', '.join(SUFFIXES)}), {others}")

    def is_named_mask(self, path: str) -> bool:
        """Whether an image below the masks' folder is one of the masks, by its name."""
        if self.mask_names is None or not self.images_among_masks:
            return False
        assert self.masks_folder is not None
        relative = os.path.relpath(path, self.masks_folder)
        return not relative.startswith("../") and self.mask_names.image_key(relative) is not None

    def named_mask(self, number: int, path: str, relative: str) -> None:
        """Add a mask under the key of its image; list a file of another name."""
        assert self.mask_names is not None
        key = self.mask_names.image_key(relative)
        if key is not None:
            self.masks.add(key, number, os.fsencode(path), "", -1, -1)
        elif not self.images_among_masks:
            detail = f"its name does not match {self.mask_names.pattern}"
            self.stray_masks.append(failure("", path, "mask_of_other_name", detail))

    def list_file(self, number: int, path: Path) -> None:
        """Add the files that a list file names, one path per line, relative to the list's folder.

        A path may lack the suffix of its image. Keys are relative to the list's folder. If an entry
        lies outside it, keys are relative to the deepest common folder of all entries.
        """
        entries = read_entries(path)
        if not entries:
            raise DataError(f"{path}: the list is empty; it needs one image path per line")
        root = str(path.parent)
        if os.path.commonpath([root, *entries]) != root:
            root = os.path.commonpath([os.path.dirname(entry) for entry in entries])
        before = self.images.count
        for entry in entries:
            if (file := _with_suffix(entry)) is not None:
                self.add(self.images, number, os.fsencode(file), os.path.relpath(file, root))
            elif os.path.isfile(entry):
                self.skipped[os.path.splitext(entry)[1].lower() or "without suffix"] += 1
            else:
                what = "is a folder" if os.path.isdir(entry) else "no such file"
                detail = f"{what}, and there is no file with {', '.join(SUFFIXES)}"
                self.failures.append(failure("", entry, "unreadable", detail))
        if self.images.count == before:
            raise DataError(
                f"{path}: not one of its {len(entries)} lines names an image; looked for "
                f"{printable(entries[0])}; lines are paths relative to the list's folder"
            )

    def tar(self, number: int, source: str) -> None:
        """Add the images and `.mask.png` members of a tar; download a remote tar first."""
        path, lacking = local_tar(source, staging=self.out / STAGING, number=number)
        before, num_images = self.images.count + len(self.failures), self.images.count
        for member in chain(tar_members(path, source=source), lacking):
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
        self.tars.append(listed_tar(source, number, path))

    def count_lost(self, share: float | None, num_read: int) -> None:
        """Estimate the images in the lost `share` of a tar from those that were read."""
        if share is None:
            self.lost_is_known = False
        elif share:
            self.num_lost += max(0, round(num_read * share / max(1 - share, 1e-9)) - 1)


def collect(
    inputs: Sequence[str],
    *,
    masks: Path | None,
    out: Path,
    mask_pattern: str | None = None,
    may_overlap: bool = True,
) -> FoundImages:
    """List all images of the inputs with their masks, without decoding.

    Folders in which `out` lies are listed without it, unless they may not overlap.

    Raises:
        ConfigError: an input or the mask folder does not exist, the pattern is wrong, or `out` lies
            where it may not.
        DataError: an input holds no image, cannot be read, or is a URL that is not allowed; or no
            mask belongs to an image.
    """
    if mask_pattern and not masks:
        raise ConfigError("--mask-pattern needs --masks, the folder of the masks")
    masks = Path(os.path.abspath(masks)) if masks else None
    if masks and not masks.is_dir():
        raise ConfigError(f"--masks {masks}: no such folder")
    names = MaskNames.parse(mask_pattern) if mask_pattern else None
    collector = _Collector(out, masks, names, None if may_overlap else out)
    excluded = [*([out] if may_overlap else []), *([masks] if masks else [])]
    for number, source in enumerate(inputs):
        if is_remote(source):
            collector.tar(number, source)
            continue
        path = Path(os.path.abspath(source.removeprefix("file://")))
        if path.is_dir():
            if masks and names is None and path.samefile(masks):
                raise ConfigError(
                    f"--masks {masks}: images and masks must be in different folders, or be told "
                    "apart by their names (--mask-pattern '{stem}_mask.png')"
                )
            if not may_overlap:
                refuse_overlap(path, out)
            if masks and path.is_relative_to(masks):
                collector.images_among_masks = True
            collector.folder(collector.images, number, path, leave_out=excluded)
        elif not os.path.lexists(path):
            raise ConfigError(f"{source}: no such file or folder")
        elif is_tar(path):
            collector.tar(number, str(path))
        elif path.suffix.lower() == ".txt":
            collector.list_file(number, path)
        elif path.suffix.lower() in SUFFIXES:
            collector.add(collector.images, number, os.fsencode(path), path.name)
        else:
            refuse_unknown(source)
    if masks:
        collector.folder(collector.masks, len(inputs), masks, leave_out=[out])
    found = _join(collector)
    if not may_overlap:
        refuse_linked(found.images, out)
    return found


def refuse_unknown(source: str) -> NoReturn:
    """Say that an input is of no kind that is read.

    Raises:
        ConfigError: always.
    """
    kinds = ", ".join(SUFFIXES)
    raise ConfigError(f"{source}: neither a folder, an image ({kinds}), a .txt list nor a .tar")


def _join(collector: _Collector) -> FoundImages:
    """Keep the first image of each key and attach the mask with the same key."""
    images, repeated = first_of_each_key(collector.images.sorted_table())
    masks, extra_masks = first_of_each_key(collector.masks.sorted_table())
    failures = [*collector.failures]
    failures += rejected(repeated, "duplicate_key", "an earlier image has the same key")
    keys = images["key"]
    if collector.mask_names is not None and collector.mask_names.is_by_name:
        keys = pc.replace_substring_regex(keys, r"^.*/", "")
    rows = pc.index_in(keys, value_set=masks["key"])
    if collector.masks_folder and len(images) and rows.null_count == len(images):
        raise DataError(_nothing_paired(collector, images, masks))
    owned = pc.is_in(masks["key"], value_set=keys)
    stray = rejected(masks.filter(pc.invert(owned)), "mask_without_image", "no image has this key")
    stray += rejected(extra_masks, "duplicate_mask", "an earlier mask has the same key")
    for name in ("path", "member", "offset", "size"):
        images = images.append_column(f"mask_{name}", masks[name].take(rows))
    return FoundImages(
        images,
        failures,
        [*collector.stray_masks, *stray],
        dict(sorted(collector.skipped.items())),
        collector.num_lost,
        collector.lost_is_known,
        collector.tars,
    )


def _nothing_paired(collector: _Collector, images: pa.Table, masks: pa.Table) -> str:
    """Say that no mask belongs to an image, with an example of both and what to do."""
    folder = str(collector.masks_folder)
    found = [os.fsdecode(path) for path in masks["path"][:_COMPARED].to_pylist()]
    found += [one["path"] for one in collector.stray_masks[:_COMPARED]]
    paths = [os.path.relpath(path, folder) for path in found]
    keys = images["key"][:_COMPARED].to_pylist()
    example = (
        f"for example image {keys[0]}, mask {printable(paths[0])}" if paths else "none is there"
    )
    by = f" by {collector.mask_names.pattern}" if collector.mask_names else ""
    return (
        f"--masks {folder}: not one mask belongs to an image{by} ({example}); "
        f"{printable(suggestion(keys, paths))}"
    )
