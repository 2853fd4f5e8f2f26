"""The labels of a folder in the order of doubt, with their decisions; for several threads.

Shapes: N labels, in the order of their index.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from a2s.data.index import Index
from a2s.data.keys import decode_key, encode_key
from a2s.data.origin import refuse_other_images
from a2s.errors import DataError
from a2s.labels.review import Decision, DecisionLog, Verdict, superseded
from a2s.storage.parsing import printable

STATES = ("undecided", "accepted", "rejected", "fixed")
State = Literal["undecided", "accepted", "rejected", "fixed"]
Flag = Literal["no_object", "empty", "touches_border", "inverted"]
BORDER = 0.05
"""A label whose contact with the border (`border_contact`) is over this share touches it."""
KEPT_QUERIES = 16


@dataclass(frozen=True)
class Query:
    """Which labels to show; None and empty text leave a condition out."""

    least_quality: float = 0.0
    most_quality: float = 1.0
    flag: Flag | None = None
    shard: str | None = None
    state: State | None = None
    text: str = ""


class Desk:
    """Labels, images and decisions of one review."""

    def __init__(self, labels: Path, data: Path) -> None:
        """Open both folders and the decisions.

        Raises:
            DataError: a folder is missing or unfinished, they are no pair, or a decision is wrong.
        """
        self.labels, self.data = Index.load(labels), Index.load(data)
        self.data_row_N = _rows_in_data(self.labels, self.data)
        count = len(self.labels)
        names = pq.read_schema(labels / f"{self.labels.shards[0].name}.parquet").names
        self.quality_N: npt.NDArray[np.float32] | None = None
        if "quality" in names:
            self.quality_N = np.nan_to_num(self.labels.column("quality"), nan=0.0)
        self.flags: dict[str, npt.NDArray[np.bool_]] = {}
        if "area_share" in names:
            self.flags["empty"] = self.labels.column("area_share") == 0
        if "border_contact" in names:
            self.flags["touches_border"] = self.labels.column("border_contact") > BORDER
        self.flags |= {
            name: self.labels.column(name) for name in ("no_object", "inverted") if name in names
        }
        self._order_N = self._by_doubt(names)
        self._log = DecisionLog(labels, self.labels)
        self._lock = threading.Lock()
        self._state_N = np.zeros(count, np.uint8)
        self._counts = [count, *[0] * (len(STATES) - 1)]
        self.version_N = np.zeros(count, np.int64)
        """Number of the change that a label's state comes from; 0 for none."""
        self.version = 0
        self._changes: dict[int, int] = {}
        """Version of each row that has one, the latest last."""
        self._queries: OrderedDict[int, npt.NDArray[np.int64]] = OrderedDict()
        self._last_query = 0
        self.follow()

    def __len__(self) -> int:
        return len(self.labels)

    def _by_doubt(self, names: list[str]) -> npt.NDArray[np.int64]:
        """Rows, the most doubtful first: without an object, then by what is known of them."""
        worth_N: npt.NDArray[Any] = np.zeros(len(self.labels))
        if self.quality_N is not None:
            worth_N = self.quality_N
        elif "changed_share" in names:
            worth_N = -self.labels.column("changed_share")
        has_object_N = ~self.flags.get("no_object", np.zeros(len(self.labels), bool))
        order_N: npt.NDArray[np.int64] = np.lexsort((worth_N, has_object_N))
        return order_N

    def counts(self) -> dict[str, int]:
        """Number of labels in each state."""
        with self._lock:
            return dict(zip(STATES, self._counts, strict=True))

    def find(self, query: Query) -> tuple[int, int]:
        """Number under which the rows of a query can be read for a while, and how many they are."""
        keep_N = np.ones(len(self), bool)
        if self.quality_N is not None:
            keep_N &= self.quality_N >= query.least_quality
            keep_N &= self.quality_N <= query.most_quality
        if query.flag is not None:
            keep_N &= self.flags.get(query.flag, np.zeros(len(self), bool))
        if query.shard is not None:
            numbers = [n for n, one in enumerate(self.labels.shards) if one.name == query.shard]
            keep_N &= self.labels.shard_N == (numbers[0] if numbers else -1)
        if query.text:
            keep_N &= self._names_with(query.text)
        with self._lock:
            if query.state is not None:
                keep_N &= self._state_N == STATES.index(query.state)
            rows = self._order_N[keep_N[self._order_N]]
            self._last_query += 1
            self._queries[self._last_query] = rows
            while len(self._queries) > KEPT_QUERIES:
                self._queries.popitem(last=False)
            return self._last_query, len(rows)

    def page(self, query: int, *, first: int, count: int) -> list[dict[str, object]] | None:
        """Some rows of a query, as JSON; None if it has been forgotten."""
        with self._lock:
            rows = self._queries.get(query)
            if rows is None:
                return None
            self._queries.move_to_end(query)
            return [self._describe(row) for row in rows[first : first + count].tolist()]

    def describe(self, row: int) -> dict[str, object]:
        """One row as JSON."""
        with self._lock:
            return self._describe(row)

    def decide(
        self, row: int, verdict: Verdict, mask_png: bytes | None, at: str, *, version: int
    ) -> None:
        """Store a decision about what a label was at a version.

        To accept a fixed label accepts the drawn mask, which holds already: nothing is stored.

        Raises:
            DataError: the mask does not fit.
            SupersededError: the label has another version by now; then nothing is stored.
            StorageError: the file of decisions cannot be written.
        """
        decision = Decision(self.labels.key(row), verdict, mask_png, at)
        with self._lock:
            held = self._held(row, decision.key, version)
            if verdict == "accepted" and held is not None and held.verdict == "fixed":
                return
            self._take(self._log.append([decision], held={decision.key: held}))

    def undo(self, row: int, *, version: int) -> None:
        """Take back the decision about a row that a version comes from.

        Raises:
            DataError: there is none.
            SupersededError: the label has another version by now; then nothing is undone.
            StorageError: the file of decisions cannot be written.
        """
        key = self.labels.key(row)
        with self._lock:
            held = self._held(row, key, version)
            self._take(self._log.undo([key], held={key: held}))

    def _held(self, row: int, key: str, version: int) -> Decision | None:
        """The decision that holds about a row, if it is that of a version."""
        self._log.rows[key] = row
        self._take(self._log.refresh())
        if int(self.version_N[row]) != version:
            raise superseded(key)
        return self._log.decisions.get(key)

    def decision(self, row: int) -> Decision | None:
        """The decision about a row."""
        with self._lock:
            return self._log.decisions.get(self.labels.key(row))

    def follow(self, since: int | None = None) -> tuple[int, list[int]]:
        """Read what others have decided.

        Returns:
            The version that this leads to, and the rows that changed after the version `since`.
        """
        with self._lock:
            self._take(self._log.refresh())
            rows = []
            for row, version in reversed(self._changes.items()):
                if since is None or version <= since:
                    break
                rows.append(row)
            return self.version, sorted(rows)

    def _take(self, keys: set[str]) -> None:
        """Bring the states of some keys up to date."""
        if not keys:
            return
        self.version += 1
        for key in keys:
            row, decision = self._log.rows[key], self._log.decisions.get(key)
            self._counts[self._state_N[row]] -= 1
            self._state_N[row] = 0 if decision is None else STATES.index(decision.verdict)
            self._counts[self._state_N[row]] += 1
            self.version_N[row] = self.version
            self._changes.pop(row, None)
            self._changes[row] = self.version

    def _describe(self, row: int) -> dict[str, object]:
        key = self.labels.key(row)
        decision = self._log.decisions.get(key)
        quality = None if self.quality_N is None else round(float(self.quality_N[row]), 3)
        return {
            "row": row,
            "name": printable(decode_key(key)),
            "quality": quality,
            "flags": [name for name, is_set_N in self.flags.items() if is_set_N[row]],
            "shard": self.labels.shards[int(self.labels.shard_N[row])].name,
            "state": STATES[int(self._state_N[row])],
            "at": decision.at if decision else None,
            "source": decision.source if decision else None,
            "version": int(self.version_N[row]),
        }

    def _names_with(self, text: str) -> npt.NDArray[np.bool_]:
        """Labels whose name contains a text, in upper or lower case."""
        try:
            # A key escapes what is no letter; `x` makes any text a relative path.
            pattern = "/".join(encode_key(f"x{part}")[1:] for part in text.split("/"))
        except DataError:
            return np.zeros(len(self), bool)
        found = pc.match_substring(self.labels.keys, pattern, ignore_case=True)
        return np.asarray(pa.chunked_array(found.chunks, pa.bool_()).to_numpy(), dtype=bool)


def _rows_in_data(labels: Index, data: Index) -> npt.NDArray[np.int64]:
    """Row in the data of each label.

    Raises:
        DataError: the folders are no pair.
    """
    for index, is_data in ((labels, False), (data, True)):
        schema = pq.read_schema(index.folder / f"{index.shards[0].name}.parquet")
        if ("orientation" in schema.names) != is_data:
            held, wanted = ("labels", "images") if is_data else ("images", "labels")
            raise DataError(f"review: {index.folder} holds {held}, where {wanted} are wanted")
    refuse_other_images(labels, data, command="review")
    rows_N = data.rows_of(labels.keys)
    if (rows_N < 0).any():
        raise DataError(
            f"review: {data.folder} lacks images of the labels in {labels.folder}; give the --data "
            "with which they were made"
        )
    return rows_N
