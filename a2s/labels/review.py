"""Decisions of a reviewer about labels: `review.jsonl` in the label folder, a line per decision.

Lines are only appended, under a lock and synced, so several writers lose nothing. A line counts
once its line break is written: readers ignore a last line without one, and the next writer removes
it. A line that undoes takes back the last decision about its key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from a2s.data.binary_mask import problem_of
from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.data.keys import decode_key
from a2s.errors import DataError
from a2s.labels import review_line
from a2s.labels.review_line import Decision as Decision
from a2s.labels.review_line import fingerprint as fingerprint
from a2s.labels.review_line import make_line, read_line
from a2s.labels.review_line import now as now
from a2s.storage import append_log, files
from a2s.storage.parsing import json_line, printable

FILE_NAME = "review.jsonl"
MAX_LINE = 64 * 2**20
"""Bytes of a line; the mask of the largest image that labels may have takes less."""
Verdict = review_line.Verdict
Source = review_line.Source


class SupersededError(DataError):
    """Somebody else decided about a label after it was shown."""


def read_decisions(labels: Path, index: Index | None = None) -> dict[str, Decision]:
    """Read the decision that holds for each key; a label that nobody decided about has none.

    `index`, if it is known, is that of the labels; `labels` may then be another folder with a file
    of decisions about them.

    Raises:
        DataError: `labels` has no labels, or a line is no decision about one of them.
    """
    log = DecisionLog(labels, index)
    log.refresh()
    return dict(log.decisions)


def append_decisions(labels: Path, decisions: Iterable[Decision]) -> None:
    """Append decisions and sync them; each is stored whole or not at all.

    Raises:
        DataError: one of them is about no label of this folder or has another mask than `Decision`
            says; then nothing is stored.
        StorageError: the file cannot be written.
    """
    DecisionLog(labels).append(decisions)


def undo_decisions(labels: Path, keys: Iterable[str]) -> None:
    """Take back the last decision about each key; the one before it, if any, holds again.

    Raises:
        DataError: a key has no decision; then nothing is undone.
        StorageError: the file cannot be written.
    """
    DecisionLog(labels).undo(keys)


def superseded(key: str) -> SupersededError:
    """The error for a decision about what no longer holds."""
    return SupersededError(
        f"somebody else decided about {printable(decode_key(key))} meanwhile; look at it, and "
        "decide again"
    )


def write_decisions(folder: Path, decisions: Mapping[str, Decision]) -> None:
    """Write a whole file of decisions: what a training run goes by, in its own folder."""
    lines = [json.dumps(make_line(**vars(one)), ensure_ascii=False) for one in decisions.values()]
    files.atomic_write(folder / FILE_NAME, "".join(json_line(line) + "\n" for line in lines))


class DecisionLog:
    """The decisions about a folder of labels, kept up to date with what other writers append.

    Not for several threads at once.
    """

    def __init__(self, labels: Path, index: Index | None = None) -> None:
        """Open the file, which need not exist yet; `index` saves reading the labels' tables again.

        Raises:
            DataError: as `Index.load`.
        """
        self.path = labels / FILE_NAME
        self.decisions: dict[str, Decision] = {}
        self.rows: dict[str, int] = {}
        """Row in the index of each key of a decision, -1 for none; who knows others may add them:
        a search takes as long as the index is."""
        self._index = Index.load(labels) if index is None else index
        self._changed: set[str] = set()
        self._history: dict[str, list[Decision]] = {}
        self._read_up_to, self._num_lines = 0, 0
        self._seen: tuple[int, int, int] | None = None
        """Inode, time of change and size of the file when all of it had been read."""

    def refresh(self) -> set[str]:
        """Read what is new in the file.

        Returns:
            The keys whose decisions this object has read since the last call that returned them;
            `append` and `undo` return them too.

        Raises:
            DataError: a line is no decision about one of the labels. What held before still does,
                and the next call reads the file from its start: somebody may have corrected it.
        """
        self._read()
        changed, self._changed = self._changed, set()
        return changed

    def append(
        self, decisions: Iterable[Decision], *, held: Mapping[str, Decision | None] | None = None
    ) -> set[str]:
        """As `append_decisions`; `decisions` of this object then include them.

        `held` are decisions, None for none, that the new ones may replace; others they may not.

        Returns:
            As `refresh`.

        Raises:
            SupersededError: by now other decisions hold; then nothing is stored.
        """
        decisions = list(decisions)
        self._validate(decisions)
        with append_log.writing(self.path) as log:
            self._check(held or {})
            log.append([make_line(**vars(one)) for one in decisions])
        return self.refresh()

    def undo(
        self, keys: Iterable[str], *, held: Mapping[str, Decision | None] | None = None
    ) -> set[str]:
        """As `undo_decisions`, on this object too; `held` and what it returns as for `append`."""
        keys = list(dict.fromkeys(keys))
        with append_log.writing(self.path) as log:
            # Under the lock, so that nobody else undoes the same decision.
            self._read()
            self._check(held or {})
            if missing := [key for key in keys if key not in self.decisions]:
                raise DataError(f"{self.path}: nothing to undo for {missing[0]!r}")
            lines = [{"key": key, "verdict": "undone", "at": now()} for key in keys]
            log.append(lines)
        return self.refresh()

    def _check(self, held: Mapping[str, Decision | None]) -> None:
        if held:
            self._read()
        for key, decision in held.items():
            if self.decisions.get(key) != decision:
                raise superseded(key)

    def _read(self) -> None:
        """Bring `decisions` up to date; on an error they stay as they are."""
        try:
            file = files.open_file(self.path)
        except FileNotFoundError:
            self._changed |= set(self.decisions)
            self.decisions.clear()
            self._seen = None
            return
        with file:
            status = os.fstat(file.fileno())
            seen = status.st_ino, status.st_mtime_ns, status.st_size
            if seen == self._seen:
                return
            is_longer = self._seen is not None and self._seen[0] == status.st_ino
            is_longer &= status.st_size > self._read_up_to
            # Until all is read: whatever stops it, the next call begins at the start.
            self._seen = None
            try:
                self._read_lines(file, status.st_size, from_start=not is_longer)
            except DataError:
                if not is_longer:
                    raise
                # Somebody may have changed earlier lines, so that this was the middle of one.
                self._read_lines(file, status.st_size, from_start=True)
            self._seen = seen

    def _read_lines(self, file: BinaryIO, end: int, *, from_start: bool) -> None:
        keys = set[str]()
        if from_start:
            self._history, self._read_up_to, self._num_lines = {}, 0, 0
            keys |= set(self.decisions)
        file.seek(self._read_up_to)
        while self._read_up_to < end:
            line = file.readline(MAX_LINE + 1)
            if len(line) > MAX_LINE:
                raise self._wrong(f"is over {MAX_LINE:,} bytes long")
            if not line.endswith(b"\n"):
                break
            keys.add(self._take(line))
            self._read_up_to += len(line)
        self._find_rows(keys)
        for key in keys:
            # Masks of decisions that hold no more are not decoded.
            history = self._history.get(key)
            if history and (problem := self._problem(history[-1], self.rows[key])):
                raise DataError(f"{self.path}: the decision about {key!r} is wrong: it {problem}")
        before = {key: self.decisions.pop(key, None) for key in keys}
        for key in keys:
            if history := self._history.get(key):
                self.decisions[key] = history[-1]
        self._changed |= {key for key in keys if self.decisions.get(key) != before[key]}

    def _find_rows(self, keys: Iterable[str]) -> None:
        """Add the rows of some keys, all at once: finding one takes as long as finding many."""
        if unknown := sorted(set(keys) - self.rows.keys()):
            found = self._index.rows_of(unknown).tolist()
            self.rows.update(zip(unknown, found, strict=True))

    def append_if(
        self, decisions: Iterable[Decision], is_new: Callable[[Decision, Decision | None], bool]
    ) -> list[tuple[Decision, Decision | None]]:
        """Append the decisions for which `is_new` is true, given the one that holds about the key.

        No other writer decides in between. Returns what was appended, with what held before.

        Raises:
            DataError, StorageError: as `append_decisions`.
        """
        decisions = list(decisions)
        self._validate(decisions)
        with append_log.writing(self.path) as log:
            self._read()
            beside = [(one, self.decisions.get(one.key)) for one in decisions]
            chosen = [(one, before) for one, before in beside if is_new(one, before)]
            log.append([make_line(**vars(one)) for one, _ in chosen])
        self.refresh()
        return chosen

    def _validate(self, decisions: list[Decision]) -> None:
        self._find_rows(one.key for one in decisions)
        for one in decisions:
            if problem := self._problem(one, self.rows[one.key]):
                raise DataError(f"{self.path}: a decision is refused: {one.key!r} {problem}")

    def _take(self, line: bytes) -> str:
        """Add a line to the history of its key."""
        self._num_lines += 1
        try:
            record = read_line(line)
            key, history = record.key, self._history.setdefault(record.key, [])
            if record.verdict != "undone":
                png = record.mask_png()
                history.append(Decision(key, record.verdict, png, record.at, record.source))
            elif history:
                history.pop()
            else:
                raise ValueError(f"undoes a decision about {key!r}, which has none")
        except ValueError as error:
            raise self._wrong(str(error), -1) from None
        return key

    def _problem(self, decision: Decision, row: int) -> str | None:
        """What is wrong with a decision, in words that follow its key; None if nothing is."""
        if row < 0:
            return f"is no key of the labels in {self._index.folder}"
        if (decision.mask_png is None) != (decision.verdict != "fixed"):
            return "has no mask" if decision.mask_png is None else "has a mask, and is not fixed"
        if decision.mask_png is None:
            return None
        width, height = int(self._index.width_N[row]), int(self._index.height_N[row])
        if width < 0:
            height, width = decode_mask(self._index.read(row)).shape
        if len(decision.mask_png) * 4 // 3 > MAX_LINE - 1024:
            return "has a mask of too many bytes"
        problem = problem_of(decision.mask_png, height=height, width=width)
        return f"has a mask that {problem}" if problem else None

    def _wrong(self, what: str, offset: int = 0) -> DataError:
        number = self._num_lines + 1 + offset
        return DataError(f"{self.path}: line {number} {what}; correct or delete that line")
