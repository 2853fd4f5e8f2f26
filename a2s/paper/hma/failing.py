"""Images that a pass of `a2s hma` leaves out: how they are found, and what they keep.

An image that ends its process is looked for by trials of halves of its chunk, which write nothing;
then the chunk is done without it. Such an image keeps the average and the label that it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from a2s.data.index import Index
from a2s.labels.store.reader import LabelSource
from a2s.labels.store.rows import RowFile, quantise, row_file_name, write_rows
from a2s.paper.hma.chunk import CHUNK, HmaPass, LabelledChunk, Updated
from a2s.parallel import pool
from a2s.storage.failures import Failure, failure

_RANK = 1
"""Number in the names of row files of images that are left out; chunks have 0."""


def trials(chunk: LabelledChunk) -> list[LabelledChunk]:
    """Trials of both halves of a chunk; none for the trial of one image."""
    parts = pool.halves(chunk.rows)
    if not chunk.is_trial and not parts:
        parts = [chunk.rows]
    return [dataclasses.replace(chunk, rows=tuple(rows), is_trial=True) for rows in parts]


def without(chunk: LabelledChunk, results: list[Updated]) -> Updated | pool.Again[LabelledChunk]:
    """What to do after the trials of a chunk: update it without the images at fault."""
    failed = {row: why for result in results for row, why in result.failed.items()}
    if chunk.is_trial:
        return Updated(len(chunk.rows), failed)
    return pool.Again(dataclasses.replace(chunk, left_out=failed))


def given_up(chunk: LabelledChunk, reason: str, detail: str) -> Updated:
    """The result of the trial of one image that ends its process."""
    return Updated(1, {chunk.rows[0]: (reason, detail)})


def failures(index: Index, failed: Mapping[int, tuple[str, str]]) -> Iterator[Failure]:
    """Records of the images that are left out, in order."""
    for row, (reason, detail) in sorted(failed.items()):
        shard = index.shards[int(index.shard_N[row])]
        yield failure(index.key(row), str(shard.path), reason, detail)


def keep_old(
    hma_pass: HmaPass, failed: Mapping[int, tuple[str, str]], *, old_labels: LabelSource
) -> list[tuple[RowFile, RowFile]]:
    """Write averages and labels of images that are left out, as they were; return the row files."""
    rows, files = sorted(failed), []
    for number, first in enumerate(range(0, len(rows), CHUNK)):
        some = rows[first : first + CHUNK]
        name = row_file_name(generation=hma_pass.generation, step=0, rank=_RANK, number=number)
        averages, labels = (
            write_rows(store, name, some, np.stack([quantise(source(row, 1)) for row in some]))
            for store, source in (
                (hma_pass.averages, hma_pass.previous),
                (hma_pass.labels, old_labels),
            )
        )
        files.append((averages, labels))
    return files
