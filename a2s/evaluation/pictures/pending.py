"""What a prediction job has to do: the images of its inputs, and which files they lack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from a2s.data.file_tree import refuse_overlap
from a2s.data.index import Index
from a2s.data.inputs import collect
from a2s.data.keys import decode_key
from a2s.data.open_files import Address
from a2s.data.tar_inputs import STAGING, is_tar
from a2s.errors import ConfigError
from a2s.evaluation.pictures.outputs import Kind, Outputs
from a2s.models.predict import Picture
from a2s.storage import run_folder
from a2s.storage.failures import Failure, failure
from a2s.storage.files import facts_of
from a2s.storage.objects.urls import portable
from a2s.storage.remote import is_remote
from a2s.storage.written import WrittenFiles

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ["key", "path", "member", "offset", "size", "crc32"]
_SCAN_ROWS = 4096


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
        missing(with_checksums(found.images, []), outputs, WrittenFiles(out))


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


def missing(
    images: pa.Table, outputs: Outputs, written: WrittenFiles
) -> tuple[dict[tuple[Kind, ...], list[int]], list[Failure]]:
    """Find the rows of images that lack files, by what they lack, and images with reserved names.

    Raises:
        ConfigError: a file that would be written is there, and this job did not write it.
    """
    is_listed = {kind: written.lists(kind, images["key"]) for kind in outputs.kinds}
    missing: dict[tuple[Kind, ...], list[int]] = {}
    reserved, foreign = [], []
    for first in range(0, len(images), _SCAN_ROWS):
        for row, picture in enumerate(pictures_in(images.slice(first, _SCAN_ROWS)), start=first):
            if "cutout" in outputs.kinds and decode_key(picture.key).endswith(".cutout"):
                detail = "with --cutout this name is that of another image's cut-out"
                reserved.append(failure(picture.key, picture.shown, "reserved_name", detail))
                continue
            paths = {kind: outputs.path(picture.key, kind) for kind in outputs.kinds}
            foreign += [
                path
                for kind, path in paths.items()
                if not is_listed[kind][row] and os.path.lexists(path)
            ]
            lacking = tuple(kind for kind, path in paths.items() if not _is_done(picture, path))
            if lacking:
                kinds = outputs.kinds if "map" in lacking else lacking
                missing.setdefault(kinds, []).append(row)
    if foreign:
        some = ", ".join(str(path.relative_to(outputs.folder)) for path in foreign[:3])
        more = ", …" if len(foreign) > 3 else ""
        raise ConfigError(
            f"predict: {outputs.folder} holds {len(foreign):,} files that this job did not write "
            f"and would replace ({some}{more}); use another --out"
        )
    return missing, reserved


def _is_done(picture: Picture, path: Path) -> bool:
    """Whether a file is there, with content, and not older than its image or the tar of that."""
    try:
        facts = facts_of(path)
        if not facts.size or path.is_dir():
            return False
        written = facts.mtime_ns
        if not isinstance(picture.address, Address):
            return True
        source = os.fsdecode(picture.address.path)
        # A copy of a compressed or remote tar is made again at every call.
        is_copy = Path(source).parent.name == STAGING
        return is_copy or facts_of(source).mtime_ns <= written
    except OSError:
        return False
