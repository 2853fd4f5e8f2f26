"""What `a2s doctor` finds about the folders of this machine, one line each."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from a2s.storage import places

GIB = 2**30
MIN_SHM_GIB = 0.5


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    status: Literal["ok", "warn", "fail"]
    what: str
    detail: str
    """What was found and, unless it is ok, what to do."""

    def __str__(self) -> str:
        return f"{self.status:<4}  {self.what:<12}  {self.detail}"


def shared_memory(folder: Path) -> Finding:
    """There is shared memory for Ray and the data loader; Docker gives only 64 MiB by default."""
    if not folder.is_dir():
        return Finding("warn", "shm", f"no {folder}; use --workers 0 and --loader-workers 0")
    if not places.is_writable(folder):
        detail = f"{folder} cannot be written; use --workers 0 and --loader-workers 0"
        return Finding("warn", "shm", detail)
    free_gib = shutil.disk_usage(folder).free / GIB
    found = f"{free_gib:.1f} GiB in {folder}"
    if free_gib < MIN_SHM_GIB:
        return Finding(
            "warn", "shm", f"{found}; in Docker give --shm-size 2g, else use --workers 0"
        )
    return Finding("ok", "shm", found)


def temporary_files(of_ray: Path) -> Finding:
    """There is a folder for temporary files; `of_ray` is the one for Ray's sockets.

    Raises:
        ConfigError: no folder can be written.
    """
    folder, named = places.temporary(), os.environ.get("TMPDIR")
    if named and Path(named) != folder:
        return Finding("warn", "tmp", f"TMPDIR={named} cannot be written; {folder} is used")
    if "RAY_TMPDIR" not in os.environ and of_ray.parent != folder:
        detail = f"TMPDIR={folder} is too long for Ray's sockets, which are in {of_ray} instead"
        return Finding("warn", "tmp", detail)
    return Finding("ok", "tmp", f"{folder}; Ray's sockets in {of_ray}")


def home() -> Finding:
    """The home folder, in which Ray keeps its token and Triton what it compiles, can be written."""
    if (folder := places.home()) is not None:
        return Finding("ok", "home", str(folder))
    named = os.environ.get("HOME")
    why = f"HOME={named} cannot be written" if named else "HOME is not set"
    detail = f"{why}; downloads need A2S_CACHE, everything else has other places"
    return Finding("warn", "home", detail)
