"""Write the labels of one chunk: the unit that is resumed.

A chunk's record is written last. Before its first file it leaves a mark, so that a file which is
there without the mark is known to be somebody else's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from a2s.data.images import BadImage
from a2s.data.keys import encode_key
from a2s.data.packing import EXTENSIONS
from a2s.errors import ConfigError, DataError
from a2s.labels.export import hugging_face
from a2s.labels.export.formats import FORMATS
from a2s.labels.export.item import Item
from a2s.labels.export.names import file_name
from a2s.labels.export.one_label import ExportJob, Record, described, made
from a2s.labels.review import Decision
from a2s.parallel import pool
from a2s.storage import files
from a2s.storage.failures import failure
from a2s.storage.written import Written

PARTS = ".parts"
"""Folder of records and marks, below the output folder."""
# Errors of a file system about one name; any other error ends the run.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ)


@dataclass(frozen=True)
class Chunk:
    """Consecutive labels, and the decisions about them.

    A trial writes nothing; it looks for labels that end their process. `left_out`: those that do,
    with reason and detail.
    """

    number: int
    rows: range
    decisions: Mapping[str, Decision]
    is_trial: bool = False
    left_out: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"export: labels {self.rows.start:,} to {self.rows.stop - 1:,}"


@dataclass(frozen=True)
class Trial:
    """Labels of a trial that are given up, with reason and detail."""

    left_out: Mapping[int, tuple[str, str]]


def trials(chunk: Chunk) -> list[Chunk]:
    """Trials of both halves of a chunk; none for the trial of one label."""
    parts = [range(rows[0], rows[-1] + 1) for rows in pool.halves(chunk.rows)]
    if not chunk.is_trial and not parts:
        parts = [chunk.rows]
    return [dataclasses.replace(chunk, rows=rows, is_trial=True) for rows in parts]


def without(chunk: Chunk, results: list[Record | Trial]) -> Trial | pool.Again[Chunk]:
    """What to do after the trials of a chunk: write it without the labels at fault."""
    left_out: dict[int, tuple[str, str]] = {}
    for result in results:
        assert isinstance(result, Trial), result
        left_out |= result.left_out
    if chunk.is_trial:
        return Trial(left_out)
    return pool.Again(dataclasses.replace(chunk, left_out=left_out))


def given_up(chunk: Chunk, reason: str, detail: str) -> Trial:
    """The result of the trial of one label that ends its process."""
    return Trial({chunk.rows.start: (reason, detail)})


def record_path(out: Path, number: int) -> Path:
    """The record of a chunk."""
    return out / PARTS / f"{number:06d}.json"


def mark_path(out: Path, name: str) -> Path:
    """The mark of what was begun: the number of a chunk, or `documents`."""
    return out / PARTS / f"{name}.begun"


def export_chunk(chunk: Chunk, job: ExportJob) -> Record | Trial:
    """Write the files of a chunk and its record; labels that fail are listed, not raised.

    A trial makes everything and writes nothing.

    Raises:
        ConfigError: a file that would be written is there already, and is somebody else's.
        StorageError: labels or images cannot be reached.
    """
    if chunk.is_trial:
        for row in chunk.rows:
            with contextlib.suppress(DataError):
                key = job.sources.labels.key(row)
                made(row, key, chunk.decisions.get(key), job, Record())
        return Trial({})
    record = Record()
    mark = mark_path(job.out, f"{chunk.number:06d}")
    is_new = not files.is_there(mark)
    with contextlib.ExitStack() as stack:
        table = None
        if FORMATS[job.format].has_tables:
            path = job.out / hugging_face.file_of(chunk.number, job.num_chunks)
            if is_new:
                refuse_foreign([path], job.out)
                files.atomic_write(mark, "")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(files.atomic_path(path))
            table = stack.enter_context(hugging_face.Table(temporary, job.style))
        elif is_new:
            refuse_foreign(_targets(chunk, job), job.out)
            files.atomic_write(mark, "")
        for row in chunk.rows:
            key = job.sources.labels.key(row)
            try:
                if row in chunk.left_out:
                    raise BadImage(*chunk.left_out[row])
                _export(row, key, chunk.decisions.get(key), job, record, table)
            except BadImage as error:
                record.failures.append(failure(key, key, error.reason, error.detail))
            except DataError as error:
                record.failures.append(failure(key, key, "damaged", str(error)))
            except OSError as error:
                if error.errno not in _NAME_ERRORS:
                    raise
                detail = f"{error.strerror}: {error.filename}"
                record.failures.append(failure(key, key, "unwritable_name", detail))
    if table is not None:
        record.files.append(Written.read(path, _listed(path, job)))
    files.write_json(record_path(job.out, chunk.number), vars(record))
    return record


def refuse_foreign(paths: list[Path], out: Path) -> None:
    """Raise ConfigError if one of the files that would be written is there already."""
    there = [
        path
        for path in paths
        if (os.path.lexists(path) or files.is_there(path)) and not path.is_dir()
    ]
    if there:
        some = ", ".join(str(path.relative_to(out)) for path in there[:3])
        raise ConfigError(
            f"export: {out} holds {len(there):,} files that this job did not write and would "
            f"replace ({some}{', …' if len(there) > 3 else ''}); use another --out"
        )


def _targets(chunk: Chunk, job: ExportJob) -> list[Path]:
    """Files that the labels of a chunk may become, whatever the labels are."""
    form = FORMATS[job.format]
    found = []
    for row in chunk.rows:
        name = form.safe_path(file_name(job.sources.labels.key(row)))
        blank = Item(row, "", name, name, np.zeros((1, 1), np.bool_), None, None, "none")
        found += [job.out / path for path in form.encode(blank, job.style).files]
        if form.images and job.copies_images:
            suffixes = ["jpg"] if form.as_jpeg else sorted({*EXTENSIONS.values()})
            found += [job.out / form.images / f"{name}.{suffix}" for suffix in suffixes]
    return found


def _export(
    row: int,
    key: str,
    decision: Decision | None,
    job: ExportJob,
    record: Record,
    table: hugging_face.Table | None,
) -> None:
    """Write one label."""
    label = made(row, key, decision, job, record)
    if label is None:
        return
    form, item, encoded = FORMATS[job.format], label.item, label.encoded
    if table is not None:
        table.add(item, label.image)
    elif job.copies_images and form.images:
        _write(job.out / form.images / item.image, label.image, job, record)
    for path, content in encoded.files.items():
        _write(job.out / path, content, job, record)
    record.num_labels += 1
    record.num_objects += len(item.objects(job.style))
    record.num_converted += label.is_converted
    for name, lines in {**encoded.lines, "labels": list(described(item))}.items():
        record.lines.setdefault(name, []).extend(lines)


def _write(path: Path, content: bytes, job: ExportJob, record: Record) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.atomic_write(path, content)
    record.files.append(Written.of(path, _listed(path, job), content))


def _listed(path: Path, job: ExportJob) -> str:
    return encode_key(path.relative_to(job.out).as_posix())
