"""What the kernel tells of processes: which run, on which machine, killed for lack of memory."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from a2s.storage.files import read_text

is_command = False
"""Whether a2s is the program of this process, which it may end, or a library of another one."""


def machine_id() -> str:
    """Name of the space of process numbers: kernel and PID namespace."""
    try:
        boot = read_text(Path("/proc/sys/kernel/random/boot_id")).strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"


def state_of(pid: int) -> str | None:
    """State of a process of this machine, as `ps` shows it; `?` if it cannot be told.

    None: there is no such process, or it is a zombie.
    """
    try:
        state = read_text(Path(f"/proc/{pid}/stat")).rsplit(") ", 1)[1][0].upper()
    except (FileNotFoundError, ProcessLookupError):
        return None
    except (OSError, IndexError):
        return "?"
    return None if state in "ZX" else state


def oom_kills() -> int:
    """Number of processes that the kernel has killed for lack of memory since it started."""
    try:
        text = read_text(Path("/proc/vmstat"))
    except OSError:
        return 0
    values = dict(line.split() for line in text.splitlines())
    return int(values.get("oom_kill", 0))


def line_of(thread: int | None) -> str:
    """Source line that a thread is at: the innermost one of this package."""
    frame = sys._current_frames().get(thread or 0)
    package = str(Path(__file__).parents[1])
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(package):
            path = Path(code.co_filename).relative_to(Path(package).parent)
            return f"{path}:{frame.f_lineno} ({code.co_name})"
        frame = frame.f_back
    return "an unknown line"
