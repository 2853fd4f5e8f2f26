"""Decisions of a reviewer about labels: `review.jsonl` in the label folder, a line per decision.

Lines are only appended, under a lock and synced, so several writers lose nothing. A line counts
once its line break is written: readers ignore a last line without one, and the next writer removes
it. A line that undoes takes back the last decision about its key.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from a2s.data.binary_mask import problem_of
from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.errors import DataError
from a2s.storage import append_log, files
from a2s.storage.parsing import first_problem, json_line, parse_json

FILE_NAME = "review.jsonl"
MAX_LINE = 64 * 2**20
"""Bytes of a line; the mask of the largest image that labels may have takes less."""
Verdict = Literal["accepted", "rejected", "fixed"]
Source = Literal["review", "labelstudio", "coco"]


@dataclass(frozen=True)
class Decision:
    """What a reviewer decided about one label.

    Range: `mask_png`, only of "fixed", is a PNG of mode L with the values 0 and 255, at the image's
    own size; `at` is a time as ISO 8601 with its offset from UTC.
    """

    key: str
    verdict: Verdict
    mask_png: bytes | None
    at: str
    source: Source = "review"


def now() -> str:
    """The time for `Decision.at`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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


def fingerprint(decisions: Mapping[str, Decision]) -> str:
    """Hash of what was decided, without when: equal decisions train equal networks."""
    total = hashlib.sha256()
    for key in sorted(decisions):
        one = decisions[key]
        mask_sha256 = hashlib.sha256(one.mask_png or b"").hexdigest()
        total.update(f"{key} {one.verdict} {mask_sha256}\n".encode())
    return total.hexdigest()


def write_decisions(folder: Path, decisions: Mapping[str, Decision]) -> None:
    """Write a whole file of decisions: what a training run goes by, in its own folder."""
    lines = [json.dumps(_to_line(one), ensure_ascii=False) for one in decisions.values()]
    files.atomic_write(folder / FILE_NAME, "".join(json_line(line) + "\n" for line in lines))


class _Line(BaseModel):
    """A line of the file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: str
    verdict: Literal["accepted", "rejected", "fixed", "undone"]
    at: Annotated[str, StringConstraints(max_length=40)]
    source: Source = "review"
    mask_png_base64: str | None = None


class _Time(BaseModel):
    at: AwareDatetime


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
        self._index = Index.load(labels) if index is None else index
        self._forget()

    def _forget(self) -> None:
        self.decisions.clear()
        self._history: dict[str, list[Decision]] = {}
        self._inode, self._read_up_to, self._num_lines = -1, 0, 0

    def refresh(self) -> set[str]:
        """Read what was appended since the last call; return the keys that it is about.

        Raises:
            DataError: a line is no decision about one of the labels.
        """
        try:
            file = files.open_file(self.path)
        except FileNotFoundError:
            changed = set(self.decisions)
            self._forget()
            return changed
        with file:
            status, changed = os.fstat(file.fileno()), set[str]()
            if status.st_ino != self._inode or status.st_size < self._read_up_to:
                # Somebody replaced the file.
                changed |= set(self.decisions)
                self._forget()
                self._inode = status.st_ino
            file.seek(self._read_up_to)
            while (line := file.readline(MAX_LINE + 1)).endswith(b"\n"):
                changed.add(self._take(line))
                self._read_up_to += len(line)
            if len(line) > MAX_LINE:
                raise self._wrong(f"is over {MAX_LINE:,} bytes long")
        # All at once: finding a key among millions takes as long as finding many.
        keys = sorted(changed)
        for key, row in zip(keys, self._index.rows_of(keys).tolist(), strict=True):
            self._settle(key, row)
        return changed

    def append(self, decisions: Iterable[Decision]) -> None:
        """As `append_decisions`; `decisions` of this object then include them."""
        decisions = list(decisions)
        self._check(decisions)
        with append_log.writing(self.path) as log:
            log.append([_to_line(one) for one in decisions])
        self.refresh()

    def undo(self, keys: Iterable[str]) -> None:
        """As `undo_decisions`, on this object too."""
        keys = list(dict.fromkeys(keys))
        with append_log.writing(self.path) as log:
            # Under the lock, so that nobody else undoes the same decision.
            self.refresh()
            if missing := [key for key in keys if key not in self.decisions]:
                raise DataError(f"{self.path}: nothing to undo for {missing[0]!r}")
            lines = [{"key": key, "verdict": "undone", "at": now()} for key in keys]
            log.append(lines)
        self.refresh()

    def append_if(
        self, decisions: Iterable[Decision], is_new: Callable[[Decision, Decision | None], bool]
    ) -> list[tuple[Decision, Decision | None]]:
        """Append the decisions for which `is_new` is true, given the one that holds about the key.

        No other writer decides in between. Returns what was appended, with what held before.

        Raises:
            DataError, StorageError: as `append_decisions`.
        """
        decisions = list(decisions)
        self._check(decisions)
        with append_log.writing(self.path) as log:
            self.refresh()
            beside = [(one, self.decisions.get(one.key)) for one in decisions]
            chosen = [(one, before) for one, before in beside if is_new(one, before)]
            log.append([_to_line(one) for one, _ in chosen])
        self.refresh()
        return chosen

    def _check(self, decisions: list[Decision]) -> None:
        rows = self._index.rows_of([one.key for one in decisions]).tolist()
        for one, row in zip(decisions, rows, strict=True):
            if problem := self._problem(one, row):
                raise DataError(f"{self.path}: a decision is refused: {one.key!r} {problem}")

    def _take(self, line: bytes) -> str:
        """Add a line to the history of its key."""
        self._num_lines += 1
        try:
            record = _Line.model_validate(parse_json(line))
            _Time.model_validate({"at": record.at})
        except ValidationError as error:
            raise self._wrong(f"is no decision ({first_problem(error)})", -1) from None
        except ValueError as error:
            raise self._wrong(f"is no JSON ({error})", -1) from None
        key, history = record.key, self._history.setdefault(record.key, [])
        if record.verdict == "undone":
            if not history:
                raise self._wrong(f"undoes a decision about {key!r}, which has none", -1)
            history.pop()
            return key
        try:
            mask = record.mask_png_base64
            png = None if mask is None else base64.b64decode(mask, validate=True)
        except ValueError as error:
            raise self._wrong(f"has a mask that is no base64 ({error})", -1) from None
        history.append(Decision(key, record.verdict, png, record.at, record.source))
        return key

    def _settle(self, key: str, row: int) -> None:
        """Make the last decision about a key the one that holds."""
        self.decisions.pop(key, None)
        if history := self._history[key]:
            # Masks of decisions that hold no more are not decoded.
            if problem := self._problem(history[-1], row):
                raise DataError(f"{self.path}: the decision about {key!r} is wrong: it {problem}")
            self.decisions[key] = history[-1]
        else:
            del self._history[key]

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


def _to_line(decision: Decision) -> dict[str, str]:
    line = {
        "key": decision.key,
        "verdict": decision.verdict,
        "at": decision.at,
        "source": decision.source,
    }
    if decision.mask_png is not None:
        line["mask_png_base64"] = base64.b64encode(decision.mask_png).decode()
    # What is written can be read.
    _Line.model_validate(line)
    _Time.model_validate({"at": decision.at})
    return line
