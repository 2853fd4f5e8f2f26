"""`failures.jsonl`: images that could not be used, with reasons; one JSON object per line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from a2s.storage.files import atomic_path
from a2s.storage.objects.urls import shown
from a2s.storage.parsing import json_line

Failure = dict[str, str]
FILE_NAME = "failures.jsonl"
BAD_CHECKSUM = "bad_checksum"
"""Reason of an image whose bytes are no longer those that were packed; its shard is damaged."""


def failure(key: str, path: str, reason: str, detail: str) -> Failure:
    """Make a record: key, path, one-word reason, detail."""
    return {"key": key, "path": as_text(path), "reason": reason, "detail": detail}


def as_text(path: str) -> str:
    """A path, or the URL it stands for, as JSON can hold it: bytes that are not UTF-8 escaped."""
    return shown(os.fsencode(path).decode("utf-8", "backslashreplace"))


def write_failures(
    folder: Path, failures: Iterable[Failure], *, sorted_ascii: bool = False
) -> None:
    """Write the list atomically; `sorted_ascii` sorts the JSON keys and escapes non-ASCII."""
    with (
        atomic_path(folder / FILE_NAME) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        for record in failures:
            line = json.dumps(record, ensure_ascii=sorted_ascii, sort_keys=sorted_ascii)
            file.write(json_line(line) + "\n")
