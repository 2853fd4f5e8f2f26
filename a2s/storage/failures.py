"""`failures.jsonl`: what could not be used, and why, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from a2s.storage.files import atomic_path

Failure = dict[str, str]
FILE_NAME = "failures.jsonl"


def failure(key: str, path: str, reason: str, detail: str) -> Failure:
    """Describe one: its key, where it lies, the reason in a word, and in words."""
    return {"key": key, "path": readable(path), "reason": reason, "detail": detail}


def readable(path: str) -> str:
    """A path that can be printed: bytes of it that are not UTF-8 become escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def write_failures(
    folder: Path, failures: Iterable[Failure], *, sorted_ascii: bool = False
) -> None:
    """Write the list, whole or not at all; with `sorted_ascii` keys are sorted and escaped."""
    with (
        atomic_path(folder / FILE_NAME) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        for one in failures:
            line = json.dumps(one, ensure_ascii=sorted_ascii, sort_keys=sorted_ascii)
            file.write(line + "\n")
