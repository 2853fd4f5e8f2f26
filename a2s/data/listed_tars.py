"""Tars whose members were listed: a resumed job may only read what was listed.

Images of a tar are read by their offsets. After the tar was replaced, other bytes are there, under
the old names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a2s.data.tar_inputs import local_tar
from a2s.errors import DataError
from a2s.storage.files import facts_of
from a2s.storage.hashing import sha256_file
from a2s.storage.objects.urls import here

ListedTar = dict[str, Any]
"""As JSON: source, number of the input, path, and its `state`: checksum of a copy; of the tar
itself size in bytes and time of the last change in ns."""


def listed_tar(source: str, number: int, path: Path) -> ListedTar:
    """Record a tar that was just listed; `path` is `source`, or its copy."""
    is_copy = str(path) != source
    known = {"source": source, "number": number, "path": str(path), "is_copy": is_copy}
    return {**known, "state": _state(path, is_copy=is_copy)}


def _state(path: Path, *, is_copy: bool) -> str:
    if is_copy:
        return sha256_file(path)
    facts = facts_of(path)
    return f"{facts.size} {facts.mtime_ns}"


def bring_back(tars: Sequence[ListedTar], *, staging: Path) -> None:
    """Copy those again whose copies were removed when the job had ended.

    Raises:
        DataError: a tar is gone, or is not what it was.
        StorageError: a download broke off.
    """
    for known in tars:
        # In a folder of an object store the path may be that of another machine.
        path = Path(here(known["path"]) or known["path"])
        is_copy = known["is_copy"]
        if is_copy and path.exists():
            continue
        if is_copy:
            local_tar(known["source"], staging=staging, number=known["number"])
        try:
            state = _state(path, is_copy=is_copy)
        except OSError as error:
            raise DataError(f"{known['source']}: cannot be read ({error.strerror})") from None
        if state != known["state"]:
            raise DataError(
                f"{known['source']} has changed since its images were listed, so they would be "
                "read as others; put the old file back, or use a new --out"
            )


def resized(tars: Sequence[ListedTar]) -> list[str]:
    """Local tars whose size has changed, as when images were appended; copies are not compared."""
    here = [known for known in tars if not known["is_copy"] and Path(known["path"]).exists()]
    return [
        str(known["source"])
        for known in here
        if Path(known["path"]).stat().st_size != int(known["state"].split()[0])
    ]
