"""Who holds the lock of a folder, by the text that it wrote into the lock's file."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from a2s.storage.files import read_text
from a2s.storage.processes import machine_id, state_of

LOCK = ".lock"
UNKNOWN = "another process"
STALE_SEC = 60.0
"""A holder whose last sign of life is older does not run, is suspended, or has lost the disk."""


@dataclass(frozen=True)
class Holder:
    """Who wrote the lock's file, and when it was last alive."""

    name: str
    """Command, process and host, for people."""
    pid: int
    machine: str
    token: str
    """Unique for each time that a lock was taken; empty once it was released."""
    age_sec: float
    """Time since the last sign of life, by the clock of the file system."""

    @classmethod
    def read(cls, out: Path) -> Holder:
        """Read it; a file of another form gives a holder without token."""
        name, fields = read_record(out)
        try:
            age_sec = _file_system_time(out) - (out / LOCK).stat().st_mtime
        except OSError:
            age_sec = 0.0
        pid = fields.get("pid", "")
        return cls(
            name,
            int(pid) if pid.isdigit() else 0,
            fields.get("machine", ""),
            fields.get("token", ""),
            age_sec,
        )

    @property
    def is_here(self) -> bool:
        """Whether its process number is one of this machine's."""
        return self.machine == machine_id()

    def describe(self) -> str:
        """What is known of it, and what to do."""
        if self.is_here and state_of(self.pid) == "T":
            return f"{self.name}, which is suspended (fg, or kill -CONT {self.pid}); or stop it"
        if self.token and self.age_sec > STALE_SEC:
            ago = f"{self.age_sec:,.0f} s ago"
            return (
                f"{self.name}, whose last sign of life was {ago}: it hangs, or its machine is "
                "lost; once it is certain that it does not run, --takeover goes on without it"
            )
        return f"{self.name}; wait, or stop it"


def read_record(out: Path) -> tuple[str, dict[str, str]]:
    """First line of the lock's file and its fields; a damaged one has none."""
    try:
        name, *rest = read_text(out / LOCK, errors="replace").splitlines() or [""]
    except OSError:
        name, rest = "", []
    return name or UNKNOWN, dict(line.split(" ", 1) for line in rest if " " in line)


def _file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps the files of a folder; that of a server may differ."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"a2s")
            file.flush()
            return os.fstat(file.fileno()).st_mtime
    except OSError:
        # The disk is full.
        return time.time()
