"""What a file of results holds, as named values; how `same_files.py` reads each kind. Pure."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from itertools import zip_longest
from typing import Any

Record = dict[str, Any]
"""The values of a line or a file by their names; nested ones are `outer.inner`."""
Reader = Callable[[str, Collection[str]], list[Record]]


def reader_of(name: str) -> Reader | None:
    """What reads a file of this name; None where only its bytes count.

    A reader takes the text, and patterns of names whose values are not taken apart.
    """
    return next((read for suffix, read in _READERS.items() if name.endswith(suffix)), None)


def leaves(value: Any, whole: Collection[str] = (), path: str = "") -> Record:
    """The values inside dicts and lists by their path; what matches `whole` is not taken apart."""
    parts: Iterable[tuple[object, Any]] = ()
    if isinstance(value, dict | list) and not any(fnmatchcase(path, name) for name in whole):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
    found: Record = {}
    for key, part in parts:
        found |= leaves(part, whole, f"{path}.{key}" if path else str(key))
    return found or {path: value}


def _read_json(text: str, may: Collection[str]) -> list[Record]:
    return [leaves(json.loads(text), may)]


def _read_lines_of_json(text: str, may: Collection[str]) -> list[Record]:
    return [leaves(json.loads(line), may) for line in text.splitlines()]


def _read_csv(text: str, may: Collection[str]) -> list[Record]:
    return _cells(csv.reader(text.splitlines()))


def _read_markdown(text: str, may: Collection[str]) -> list[Record]:
    """A table's rows by column, and every other line as it is."""
    records: list[Record] = []
    table: list[list[str]] = []
    for line in [*text.split("\n"), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        else:
            records += [*_cells(table), {"text": line}]
            table = []
    return records


def _cells(rows: Iterable[list[str]]) -> list[Record]:
    """Rows below a header, by its names; a name that comes again has its column's number."""
    names: list[str] = []
    records: list[Record] = []
    for row in rows:
        if not names:
            names = [f"{n} {i}" if n in row[:i] else n for i, n in enumerate(row)]
            records.append({"header": row})
        else:
            records.append(dict(zip_longest(names, row)))
    return records


def _read_lock(text: str, may: Collection[str]) -> list[Record]:
    pid = re.search(r"\bpid (\d+)", text)
    return [{"text": re.sub(r"\bpid \d+", "pid", text), "pid": int(pid[1]) if pid else None}]


def _read_written(text: str, may: Collection[str]) -> list[Record]:
    """Lines of a list of written files; what it says about content is named after the file."""
    names = ("size", "crc32", "mtime_ns")
    records: list[Record] = []
    for line in text.splitlines():
        kind, key, *values = line.split()
        about = {f"{key}.{name}": value for name, value in zip(names, values, strict=False)}
        records.append({"kind": kind, "key": key, **about})
    return records


def first_byte(name: str, old: bytes, new: bytes) -> str:
    """Where two files part, in words."""
    ends = min(len(old), len(new))
    # Halving beats looking at every byte of a large file.
    at, step = 0, ends
    while step:
        if old[at : at + step] == new[at : at + step]:
            at += step
            step = min(step, ends - at)
        else:
            step //= 2
    lengths = f"{len(old)} bytes" if len(old) == len(new) else f"{len(old)} -> {len(new)} bytes"
    return f"{lengths}, from byte {at}{_part_at(name, old, at)}"


def _part_at(name: str, data: bytes, at: int) -> str:
    """Whose byte this is, where a file has named parts."""
    try:
        if name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                return f" in {[m.name for m in tar.getmembers() if m.offset <= at][-1]}"
        if name.endswith(".safetensors"):
            start = 8 + int.from_bytes(data[:8], "little")
            header = json.loads(data[8:start])
            header.pop("__metadata__", None)
            begins = {value["data_offsets"][0] + start: key for key, value in header.items()}
            return f" in {begins[max(place for place in begins if place <= at)]}"
    except (tarfile.TarError, ValueError, LookupError):
        # Damaged, or in what comes before the first part.
        return ""
    return ""


_READERS: dict[str, Reader] = {
    ".jsonl": _read_lines_of_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".md": _read_markdown,
    ".lock": _read_lock,
    "written.txt": _read_written,
}
