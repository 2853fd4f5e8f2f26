"""What a prediction job has to do: the images of its inputs, and which files they lack."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from a2s.data.file_tree import refuse_overlap
from a2s.data.index import Index
from a2s.data.inputs import collect
from a2s.data.keys import decode_key
from a2s.data.open_files import Address
from a2s.data.tar_inputs import STAGING, is_tar
from a2s.errors import ConfigError
from a2s.evaluation.pictures.outputs import Format, Kind, Outputs, Style, is_whole
from a2s.models.predict import Picture
from a2s.storage import run_folder
from a2s.storage.failures import Failure, failure
from a2s.storage.files import facts_of, is_there, read_bytes
from a2s.storage.objects.urls import portable
from a2s.storage.parsing import printable
from a2s.storage.remote import is_remote
from a2s.storage.written import FILE, Written, WrittenFiles

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ["key", "path", "member", "offset", "size", "crc32"]
_SCAN_ROWS = 4096
_KINDS: tuple[Kind, ...] = get_args(Kind)
_FORMATS: tuple[Format, ...] = get_args(Format)


def refuse_foreign(out: Path, sources: list[str], outputs: Outputs) -> None:
    """Before anything is written into a folder of others, look for files that would be replaced.

    Raises:
        ConfigError: there are some, or the folder holds the inputs or lies in them.
    """
    for source in sources:
        if not is_remote(source) and Path(source).is_dir():
            refuse_overlap(Path(source), out)
    if not out.is_dir() or (out / "config.yaml").exists():
        return
    run_folder.refuse_foreign("predict", out)
    # Tars may have to be copied to the folder first, so theirs are looked for when it is claimed.
    plain = [s for s in sources if not is_remote(s) and not is_tar(Path(s)) and Path(s).exists()]
    if plain and any(out.iterdir()):
        found = collect(plain, masks=None, out=out, may_overlap=False)
        pending(with_checksums(found.images, []), outputs, WrittenFiles(out))


def open_shard_folders(images: tuple[str, ...]) -> tuple[list[str], list[Index]]:
    """Replace each shard folder by its tars, and return the indexes of these folders.

    Raises:
        DataError: a shard folder is unfinished or damaged.
    """
    sources: list[str] = []
    indexes: list[Index] = []
    for source in images:
        if is_remote(source) or next(Path(source).glob("shard-*.json"), None) is None:
            sources.append(source)
            continue
        indexes.append(Index.load(Path(source)))
        sources += [str(shard.path) for shard in indexes[-1].shards]
    return sources, indexes


def with_checksums(images: pa.Table, indexes: list[Index]) -> pa.Table:
    """Add a column `crc32`: the checksum of an image in a shard folder, else null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    crc32_N = np.full(len(images), -1, np.int64)
    for index in indexes:
        tars = [portable(os.fsencode(os.path.abspath(one.path))) for one in index.shards]
        is_here_N = pc.is_in(images["path"], value_set=pa.array(tars, pa.large_binary()))
        row_N = index.rows_of(images["key"])
        found_N = is_here_N.to_numpy() & (row_N >= 0)
        crc32_N[found_N] = index.crc32_N[row_N[found_N]]
    return images.append_column("crc32", pa.array(crc32_N, mask=crc32_N < 0))


def pictures_in(rows: pa.Table) -> list[Picture]:
    """Rows of a table of images, as what a network takes."""
    return [
        Picture(
            row["key"],
            Address(row["path"], row["offset"], row["size"]),
            row["member"] or row["path"].decode("utf-8", "backslashreplace"),
            row["crc32"],
        )
        for row in rows.select(_COLUMNS).to_pylist()
    ]


@dataclass
class Pending:
    """What a job has to do, and what became of the files of earlier calls."""

    lacking: dict[tuple[Kind, ...], list[int]] = field(default_factory=dict)
    """Rows of images that lack files, by what they lack."""
    reserved: list[Failure] = field(default_factory=list)
    """Images whose names are reserved."""
    changed: list[Path] = field(default_factory=list)
    """Files that do not hold what this job wrote; those of `lacking` replace them."""
    to_list: list[Written] = field(default_factory=list)
    """Files of which the list does not yet say what they hold, or when they got it."""

    def remove_changed(self, folder: Path) -> str:
        """Delete the files that are not what was written; say how many, and name some.

        What replaces them may fail, and then nobody must take them for results.
        """
        for path in self.changed:
            path.unlink()
        if not self.changed:
            return ""
        some = ", ".join(printable(str(path.relative_to(folder))) for path in self.changed[:3])
        more = ", …" if len(self.changed) > 3 else ""
        return f"{len(self.changed):,} files are not what this job wrote ({some}{more})"


def pending(images: pa.Table, outputs: Outputs, written: WrittenFiles) -> Pending:
    """Find what images lack.

    Raises:
        ConfigError: a file that would be written is there, and this job did not write it.
    """
    listed = {kind: written.lists(kind, images["key"]) for kind in outputs.kinds}
    position = {kind: _positions(images["key"], outputs, kind, written) for kind in outputs.kinds}
    found, foreign = Pending(), []
    for first in range(0, len(images), _SCAN_ROWS):
        for row, picture in enumerate(pictures_in(images.slice(first, _SCAN_ROWS)), start=first):
            if "cutout" in outputs.kinds and decode_key(picture.key).endswith(".cutout"):
                detail = "with --cutout this name is that of another image's cut-out"
                found.reserved.append(failure(picture.key, picture.shown, "reserved_name", detail))
                continue
            lacking: list[Kind] = []
            for kind in outputs.kinds:
                path = outputs.path(picture.key, kind)
                if not listed[kind][row]:
                    foreign += [path] if os.path.lexists(path) else []
                    lacking.append(kind)
                    continue
                there = int(position[kind][row])
                known = written.at(there) if there >= 0 else None
                file = _Found(path, f"{picture.key}{outputs.list_suffix(kind)}", known)
                if not _is_done(picture, file, found):
                    lacking.append(kind)
            if lacking:
                kinds = outputs.kinds if "map" in lacking else tuple(lacking)
                found.lacking.setdefault(kinds, []).append(row)
    if foreign:
        some = ", ".join(str(path.relative_to(outputs.folder)) for path in foreign[:3])
        more = ", …" if len(foreign) > 3 else ""
        raise ConfigError(
            f"predict: {outputs.folder} holds {len(foreign):,} files that this job did not write "
            f"and would replace ({some}{more}); use another --out"
        )
    return found


def _positions(
    keys: pa.ChunkedArray, outputs: Outputs, kind: Kind, written: WrittenFiles
) -> NDArray[np.int64]:
    """What is known about the files of one kind, as positions in the list. Shape: N."""
    import pyarrow as pa
    import pyarrow.compute as pc

    end, nothing = (pa.scalar(text, pa.large_string()) for text in (outputs.list_suffix(kind), ""))
    named = pc.binary_join_element_wise(keys.cast(pa.large_string()), end, nothing)
    return written.position_of(named)


def num_without_checksum(folder: Path) -> int:
    """Number of files in a folder of predictions of which the list does not say what they hold.

    Raises:
        DataError: the list is damaged.
    """
    written = WrittenFiles(folder)
    known = set(written.listed(FILE))
    number = 0
    for kind in _KINDS:
        for picture_format in _FORMATS if kind == "cutout" else _FORMATS[:1]:
            outputs = Outputs(folder, (), Style(format=picture_format))
            suffix = outputs.list_suffix(kind)
            others = [key for key in written.listed(kind) if f"{key}{suffix}" not in known]
            number += sum(is_there(outputs.path(key, kind)) for key in others)
    return number


class _Found(NamedTuple):
    """A file of an earlier call."""

    path: Path
    listed_as: str
    known: Written | None
    """What it held; None if the call was killed before it noted that, or was of an old version."""


def _is_done(picture: Picture, file: _Found, found: Pending) -> bool:
    """Whether a file holds what was written, and is not older than its image or the tar of that."""
    path, known = file.path, file.known
    try:
        date = facts_of(path).mtime_ns
        if path.is_dir():
            return False
        if isinstance(picture.address, Address):
            source = os.fsdecode(picture.address.path)
            # A copy of a compressed or remote tar is made again at every call.
            if Path(source).parent.name != STAGING and facts_of(source).mtime_ns > date:
                return False
        if known is not None:
            state = known.state_of(path)
            found.changed += [path] if state == "changed" else []
            found.to_list += [known._replace(mtime_ns=date)] if state == "redated" else []
            return state != "changed"
        data = read_bytes(path)
        if not is_whole(data):
            found.changed.append(path)
            return False
        found.to_list.append(Written.of(path, file.listed_as, data))
        return True
    except OSError:
        return False
