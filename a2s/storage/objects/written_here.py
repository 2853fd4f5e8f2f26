"""Files that this thread has written, for whoever publishes them (`elsewhere`)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

_of_thread = threading.local()


def note(path: Path) -> None:
    """Note a file that was written, if anybody wants to know."""
    written = getattr(_of_thread, "written", None)
    if written is not None:
        written.append(path)


def is_noted() -> bool:
    """Whether what this thread writes is noted."""
    return getattr(_of_thread, "written", None) is not None


@contextlib.contextmanager
def noted() -> Iterator[list[Path]]:
    """The files that the block writes in this thread, in the order in which they were finished."""
    before = getattr(_of_thread, "written", None)
    written: list[Path] = []
    _of_thread.written = written
    try:
        yield written
    finally:
        _of_thread.written = before
