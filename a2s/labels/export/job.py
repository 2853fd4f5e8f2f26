"""Write all labels chunk by chunk, and then the files about all of them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from a2s.data.index import Index
from a2s.data.isolation import isolated
from a2s.data.origin import refuse_other_images
from a2s.data.results import is_as_written, read_file
from a2s.errors import DataError
from a2s.labels.export.chunk import (
    PARTS,
    Chunk,
    export_chunk,
    given_up,
    mark_path,
    record_path,
    refuse_foreign,
    trials,
    without,
)
from a2s.labels.export.formats import FORMATS
from a2s.labels.export.item import Document, Lines
from a2s.labels.export.one_label import ExportJob, Record, Sources
from a2s.labels.review import Decision
from a2s.parallel import pool
from a2s.parallel.progress import Progress
from a2s.storage import files
from a2s.storage.failures import FILE_NAME as FAILURES
from a2s.storage.failures import Failure, write_failures
from a2s.storage.written import FILE_NAME as WRITTEN
from a2s.storage.written import Written, write_list

CHUNK_LABELS = 500
SUMMARY = "export.json"
"""Written when the rest is there: counts of what the folder holds."""
LABELS, LEFT_OUT = "labels.jsonl", "left_out.jsonl"
_RECORDS = (SUMMARY, FAILURES, LEFT_OUT, WRITTEN)
_DOCUMENTS = "documents"
"""Mark of the files about all labels."""
_STORED = TypeAdapter(Record)


def sources_of(labels: Index, data: Index) -> Sources:
    """Pair labels with their images.

    Raises:
        DataError: the data has none of the images, or other ones, or holds labels.
    """
    refuse_other_images(labels, data, command="export")
    row_N = data.rows_of(labels.keys)
    if not (row_N >= 0).any():
        raise DataError(f"export: {data.folder} has none of the images of {labels.folder}")
    orientation_N = data.column("orientation")[row_N.clip(0)].astype(np.int8)
    known: dict[str, Any] = dict.fromkeys(("quality", "no_object"))
    for name in known:
        with contextlib.suppress(DataError):
            known[name] = labels.column(name)
    return Sources(labels, data, row_N, orientation_N, known["quality"], known["no_object"])


@dataclass
class Summary:
    """Counts of an export."""

    num_labels: int = 0
    num_objects: int = 0
    num_converted: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    num_failures: int = 0

    def add(self, record: Record) -> None:
        """Count a chunk."""
        self.num_labels += record.num_labels
        self.num_objects += record.num_objects
        self.num_converted += record.num_converted
        self.left_out.update(one["reason"] for one in record.left_out)
        self.num_failures += len(record.failures)


def finished(out: Path) -> Summary | None:
    """The counts of an export that is done and has no failures that could be tried again."""
    try:
        summary = TypeAdapter(Summary).validate_python(files.read_json(out / SUMMARY))
    except (OSError, ValueError):
        return None
    # Killed before it wrote the list; an export of older versions has none, nor parts.
    is_unlisted = (out / PARTS).exists() and not files.is_there(out / WRITTEN)
    return None if summary.num_failures or is_unlisted else summary


def begin_again(job: ExportJob, changed: list[Path]) -> None:
    """Prepare to write all files of an export again, those that are there included."""
    for path in changed:
        # What replaces it may fail, and then nobody must take it for what was exported.
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            path.unlink()
    (job.out / SUMMARY).unlink(missing_ok=True)
    (job.out / PARTS).mkdir(exist_ok=True)
    for name in (_DOCUMENTS, *(f"{number:06d}" for number in range(job.num_chunks))):
        files.atomic_write(mark_path(job.out, name), "")


def remove_parts(out: Path) -> None:
    """Delete the records of the chunks, which only an unfinished export needs."""
    shutil.rmtree(out / PARTS, ignore_errors=True)


def export_all(
    job: ExportJob,
    decisions: Mapping[str, Decision],
    *,
    workers: int | None,
    ray_address: str | None,
) -> Summary:
    """Write what is missing; return the counts of all.

    Raises:
        ConfigError: a file that would be written is there already, and is somebody else's.
        StorageError: labels or images cannot be reached.
    """
    (job.out / PARTS).mkdir(exist_ok=True)
    num_labels = len(job.sources.labels)
    todo = [n for n in range(job.num_chunks) if not _is_done(job.out, n)]
    rows = [_rows(number, num_labels) for number in todo]
    done = num_labels - sum(map(len, rows))
    with Progress(num_labels, unit="labels", name="export", done=done) as progress:
        results = pool.map_items(
            export_chunk,
            (_chunk(number, job, decisions) for number in todo),
            workers=workers,
            common=(job,),
            isolation=isolated,
            division=pool.Division(trials, without, given_up),
            ray_address=ray_address,
            note=progress.note,
        )
        with contextlib.closing(results):
            for record in results:
                assert isinstance(record, Record), record
                left_out = len(record.left_out) + len(record.failures)
                progress.update(record.num_labels + left_out)
    return _conclude(job)


def _rows(number: int, num_labels: int) -> range:
    first = number * CHUNK_LABELS
    return range(first, min(first + CHUNK_LABELS, num_labels))


def _chunk(number: int, job: ExportJob, decisions: Mapping[str, Decision]) -> Chunk:
    rows = _rows(number, len(job.sources.labels))
    keys = job.sources.labels.keys_for(rows) if decisions else []
    return Chunk(number, rows, {key: decisions[key] for key in keys if key in decisions})


def _is_done(out: Path, number: int) -> bool:
    """Whether a chunk is written, and as it was; one with failures is tried again."""
    try:
        record = _read(out, number)
        return not record.failures and all(is_as_written(out, file) for file in record.files)
    except (OSError, ValueError):
        return False


def _read(out: Path, number: int) -> Record:
    return _STORED.validate_python(files.read_json(record_path(out, number)))


class _StoredLines(Lines):
    """The lines in the records, a record in memory at a time."""

    def __init__(self, out: Path, num_chunks: int, num_labels: int) -> None:
        self.num_labels = num_labels
        self._out, self._num_chunks = out, num_chunks

    def of(self, name: str) -> Iterator[str]:
        for lines in self.by_part(name):
            yield from lines

    def by_part(self, name: str) -> Iterator[list[str]]:
        for number in range(self._num_chunks):
            yield _read(self._out, number).lines.get(name, [])


def _conclude(job: ExportJob) -> Summary:
    """Write the files about all labels, the lists, and last the counts."""
    summary, out = Summary(), job.out

    def records() -> Iterator[Record]:
        return (_read(out, number) for number in range(job.num_chunks))

    for record in records():
        summary.add(record)
    lines = _StoredLines(out, job.num_chunks, summary.num_labels)
    documents = _write_documents(job, lines)
    write_failures(out, _failures(records))
    _write_text(out, (LEFT_OUT, _left_out(records)))
    files.write_json(out / SUMMARY, vars(summary))
    write_list(out, _listed(records, [*documents, FAILURES, LEFT_OUT, SUMMARY], out))
    return summary


def _listed(
    records: Callable[[], Iterator[Record]], others: Iterable[str], out: Path
) -> Iterator[Written]:
    for record in records():
        yield from record.files
    for name in others:
        yield read_file(out, name)


def _failures(records: Callable[[], Iterator[Record]]) -> Iterator[Failure]:
    for record in records():
        yield from record.failures


def _left_out(records: Callable[[], Iterator[Record]]) -> Iterator[str]:
    for record in records():
        for one in record.left_out:
            yield json.dumps(one) + "\n"


def _write_documents(job: ExportJob, lines: Lines) -> list[str]:
    """Write the files about all labels; return their paths in the folder."""
    mark = mark_path(job.out, _DOCUMENTS)

    def documents() -> Iterator[Document]:
        yield from FORMATS[job.format].documents(lines, job.style)
        yield LABELS, (line + "\n" for line in lines.of("labels"))

    if not mark.exists():
        paths = [job.out / path for path, _ in documents()]
        refuse_foreign([*paths, *(job.out / name for name in _RECORDS)], job.out)
        files.atomic_write(mark, "")
    written = []
    for document in documents():
        _write_text(job.out, document)
        written.append(document[0])
    return written


def _write_text(out: Path, document: Document) -> None:
    path = out / document[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(document[1])
        file.flush()
        os.fsync(file.fileno())
