"""Files of a working folder, as they are now."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from a2s.storage.objects.mirror import is_hidden


class State(NamedTuple):
    """Date and size of a file; when it changes, one of them does."""

    mtime_ns: int
    size: int


def scan(folder: Path) -> dict[str, State | None]:
    """Files of a working folder by relative path; None for a link to an object."""
    found: dict[str, State | None] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name)]
        prefix = os.path.relpath(parent, folder)
        prefix = "" if prefix == "." else f"{prefix}/"
        for name in names:
            if is_hidden(name):
                continue
            path = Path(parent, name)
            if path.is_symlink():
                found[f"{prefix}{name}"] = None
            else:
                with contextlib.suppress(FileNotFoundError):
                    found[f"{prefix}{name}"] = state_of(path)
    return found


def state_of(path: Path) -> State:
    """State of a file; OSError if there is none."""
    status = path.stat()
    return State(status.st_mtime_ns, status.st_size)
