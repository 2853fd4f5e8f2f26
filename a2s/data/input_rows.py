"""The table of `inputs` under construction: one row per image or mask, an address and its key."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from a2s.storage.failures import Failure, failure
from a2s.storage.objects.urls import portable

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


@dataclass
class Rows:
    """Rows that are added one by one."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    pending: list[tuple[object, ...]] = field(default_factory=list)
    count: int = 0

    def add(self, *row: object) -> None:
        """Add a row: the values of SCHEMA. A path that stands for a URL becomes that again."""
        self.pending.append(tuple(portable(one) if type(one) is bytes else one for one in row))
        self.count += 1
        if len(self.pending) == _CHUNK:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self.pending, strict=True)
        arrays = [pa.array(c, kind) for c, kind in zip(columns, SCHEMA.types, strict=True)]
        self.batches.append(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self.pending = []

    def sorted_table(self) -> pa.Table:
        """All rows, by key."""
        if self.pending:
            self._flush()
        table = pa.Table.from_batches(self.batches, schema=SCHEMA)
        return table.take(pc.sort_indices(table, sort_keys=_ORDER))


def first_of_each_key(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split a sorted table into the first row of every key, and the others."""
    if len(table) < 2:
        return table, table.slice(0, 0)
    keys = table["key"].combine_chunks()
    same = pc.equal(keys.slice(1), keys.slice(0, len(keys) - 1))
    repeated = pa.concat_arrays([pa.array([False]), same])
    return table.filter(pc.invert(repeated)), table.filter(repeated)


def rejected(table: pa.Table, reason: str, detail: str) -> list[Failure]:
    """The rows of a table as records of failures."""
    rows = table.select(["key", "path", "member"]).to_pylist()
    return [
        failure(row["key"], row["member"] or os.fsdecode(row["path"]), reason, detail)
        for row in rows
    ]
