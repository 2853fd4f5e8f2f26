"""In which order the files of a folder are published (pure)."""

from __future__ import annotations

_FIRST = (".txt", ".jsonl", ".yaml", ".begun", "environment.json")
"""What a command writes before its work. `a2s status` compares dates, so the order counts."""
LAST = ".json"
_ALSO_LAST = "failures.jsonl"


def is_last(name: str) -> bool:
    """Whether a file declares others finished."""
    return name.endswith((LAST, _ALSO_LAST)) and not name.endswith("environment.json")


def is_first(name: str) -> bool:
    """Whether a file is written before the work that it tells of, or grows with it."""
    return name.endswith(_FIRST) and not is_last(name)
