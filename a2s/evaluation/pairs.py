"""Predictions and truths by key: where each one lies, as a file or as a member of a shard."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from a2s.data.arrays import U8
from a2s.data.file_tree import walk
from a2s.data.images import SUFFIXES
from a2s.data.keys import encode_key
from a2s.data.mask_names import MaskNames, last_part, suggestion
from a2s.data.masks import decode_map, decode_truth
from a2s.data.open_files import Address
from a2s.errors import ConfigError, DataError
from a2s.storage.files import facts_of, write_json
from a2s.storage.parsing import printable

if TYPE_CHECKING:
    from a2s.data.index import Index

# Where `a.png` and `a.jpg` lie together, the lossless one is the mask, the other its photograph.
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_RECORDS = (".yaml", ".json", ".jsonl", ".txt")
"""Suffixes of what a command of a2s writes about itself in its output folder."""
_COMPARED = 200
"""Names of each side among which a pattern is looked for that would pair them."""
_ADDITIONS = (".cutout", ".overlay")
"""What `a2s predict` writes beside a map."""


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
    lists files that gave way to another one of the same key. `are_masks`: other programs made them;
    `are_names`: keys are names without folders.
    """

    keys: frozenset[str]
    locate: Callable[[str], PictureFile]
    fingerprint: str
    shadowed: list[str] = field(default_factory=list)
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Number of other files by kind."""
    are_masks: bool = False
    are_names: bool = False

    def picture(self, key: str) -> U8:
        """Decode a map, or a mask as `data.masks.decode_truth` does. Shape: H W.

        Raises:
            DataError: it cannot be read or decoded.
        """
        data = self.locate(key).read()
        return decode_truth(data)[0] if self.are_masks else decode_map(data)


def find_images(folder: Path) -> PictureSet:
    """Find photographs: image files at any depth, or the members of data shards.

    Raises:
        DataError: the folder is missing or holds none.
    """
    index = _index(folder)
    if index is not None:
        return _from_index(index, masks=False)
    return _from_files(folder, encode_stem, what="images", lossless_first=False)


def find_predictions(folder: Path, *, wanted: frozenset[str]) -> PictureSet:
    """Find predicted maps: image files at any depth, or the main members of label shards.

    Cut-outs and overlays (`x.cutout.png`, `x.overlay.jpg`) count only where a truth of that very
    name is `wanted`.

    Raises:
        DataError: the folder is missing or holds none.
    """
    index = _index(folder)
    if index is not None:
        return _from_index(index, masks=False)

    def key_of(path: PurePosixPath) -> str | None:
        key = encode_stem(path)
        return key if key in wanted or not path.stem.endswith(_ADDITIONS) else None

    return _from_files(folder, key_of, what="predictions", others="cut-outs and overlays")


def find_truths(folder: Path, mask_pattern: str | None = None) -> PictureSet:
    """Find masks: image files at any depth, or the `mask.png` members of data shards.

    `mask_pattern`: as for `MaskNames`. If it names no folder, keys are those of names alone;
    `spread` makes them keys of predictions.

    Raises:
        ConfigError: the pattern is wrong, or the folder holds shards.
        DataError: the folder is missing or holds none.
    """
    names = MaskNames.parse(mask_pattern) if mask_pattern else None
    index = _index(folder)
    if index is not None:
        if names:
            raise ConfigError(f"--mask-pattern is for folders of files; {folder} holds shards")
        side = _from_index(index, masks=True)
        if not side.keys:
            raise DataError(f"{folder}: these shards hold no masks; pack them with --masks")
        return replace(side, are_masks=True)

    def named(path: PurePosixPath) -> str | None:
        assert names is not None
        return names.image_key(str(path))

    what = f"masks called {mask_pattern}" if names else "masks"
    files = _from_files(folder, named if names else encode_stem, what=what, others="of other names")
    return replace(files, are_masks=True, are_names=names is not None and names.is_by_name)


def spread(masks: PictureSet, keys: Iterable[str]) -> PictureSet:
    """Give masks that have keys of names alone the keys of all pictures of these names."""
    if not masks.are_names:
        return masks
    owner = {key: last_part(key) for key in keys if last_part(key) in masks.keys}
    rest = masks.keys - frozenset(owner.values())
    named = owner | {key: key for key in rest}
    return replace(
        masks, keys=frozenset(named), locate=lambda key: masks.locate(named[key]), are_names=False
    )


def unpaired(keys: Iterable[str], truths: PictureSet, *, folder: Path) -> str:
    """What pictures and truths without a common key are called, as a clause, and what to do."""
    some, of_truths = (sorted(side)[:_COMPARED] for side in (keys, truths.keys))
    files = [os.path.relpath(truths.locate(key).path, folder) for key in of_truths]
    example = f"for example {some[0]} and {of_truths[0]}"
    return f"a truth in {folder} ({example}); {printable(suggestion(some, files))}"


def only(side: PictureSet, keys: frozenset[str]) -> PictureSet:
    """Leave out the pictures whose key is not one of `keys`."""
    kept = side.keys & keys
    listed = hashlib.sha256("\n".join(sorted(kept)).encode()).hexdigest()
    return replace(side, keys=kept, fingerprint=f"{side.fingerprint} {listed}")


def write_missing(
    out: Path,
    keys: list[str],
    predictions: PictureSet,
    truths: PictureSet,
    rbd: PictureSet | None,
) -> dict[str, int]:
    """Write missing.json and print the keys that one side lacks; return their numbers."""
    lists = {
        "missing_pred": sorted(truths.keys - predictions.keys),
        "missing_truth": sorted(predictions.keys - truths.keys),
        "missing_rbd": sorted({*keys} - rbd.keys) if rbd else [],
    }
    doubles = {
        "truth_of_same_name_ignored": truths.shadowed,
        "prediction_of_same_name_ignored": predictions.shadowed,
    }
    write_json(out / "missing.json", lists | doubles)
    for name, files in doubles.items():
        if files:
            print(
                f"evaluate: {len(files):,} files give way to others of their name: "
                f"{name} in {out}/missing.json"
            )
    for side, what in ((truths, "truth"), (predictions, "predictions")):
        if side.skipped:
            listed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(side.skipped.items()))
            print(f"evaluate: left out of the folder of the {what}: {listed}")
    for name, text in (
        ("missing_pred", "truths without a prediction (not scored)"),
        ("missing_truth", "predictions without a truth (not scored)"),
        ("missing_rbd", "pairs without a map of RBD (not in its row)"),
    ):
        if lists[name]:
            shown = ", ".join(lists[name][:10]) + (", …" if len(lists[name]) > 10 else "")
            print(f"evaluate: {len(lists[name]):,} {text}: {shown}; all in {out}/missing.json")
    return {f"num_{name}": len(keys) for name, keys in lists.items()}


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


def encode_stem(path: PurePosixPath) -> str:
    """Key of a file: its path without the last suffix."""
    return encode_key(str(path.with_suffix("")))


def _from_files(
    root: Path,
    key_of: Callable[[PurePosixPath], str | None],
    *,
    what: str,
    others: str = "",
    lossless_first: bool = True,
) -> PictureSet:
    found: dict[str, str] = {}
    shadowed = []
    skipped: Counter[str] = Counter()
    state = hashlib.sha256()
    is_output = (root / "config.yaml").exists() and (root / "environment.json").exists()
    names = sorted(relative for _, relative in walk(root, skipped=skipped))
    names.sort(key=lambda name: _is_lossless(name) != lossless_first)
    for relative in names:
        path = PurePosixPath(relative)
        if path.suffix.lower() not in SUFFIXES:
            if not (is_output and path.suffix in _RECORDS and path.parent == PurePosixPath()):
                skipped[path.suffix.lower() or "without suffix"] += 1
            continue
        key = key_of(path)
        if key is None:
            skipped[others] += 1
            continue
        if key in found:
            shadowed.append(relative)
            continue
        found[key] = relative
        try:
            facts = facts_of(root / relative)
            state.update(f"{key} {facts.size} {facts.mtime_ns}\n".encode())
        except OSError:  # a link to nowhere, say: reading it will report that
            state.update(f"{key} unreadable\n".encode())
    if not found:
        listed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(skipped.items()))
        known = ", ".join(SUFFIXES)
        raise DataError(f"{root}: no {what} here ({known}); others: {listed or 'none'}")

    def locate(key: str) -> PictureFile:
        return PictureFile(Address(str(root / found[key])))

    return PictureSet(frozenset(found), locate, state.hexdigest(), shadowed, skipped)


def _is_lossless(relative: str) -> bool:
    return PurePosixPath(relative).suffix.lower() in _LOSSLESS
