"""Hold a process when it has written a certain file, so that no test comes too late.

A file that matters is renamed to its name. The thread that does it waits until the process is
released or killed; signals are handled as always.
"""

from __future__ import annotations

import os
import subprocess
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

PATTERN, HELD = "A2S_TEST_HOLD_AT", "A2S_TEST_HELD"
WAIT_SEC = 120
FREE = "free"
"""A file beside the other: from now on the process is not held again."""


def variables(pattern: str, folder: Path) -> dict[str, str]:
    """Environment of a process that is held at a file, and says so in a folder of its own."""
    return {PATTERN: f"*/{pattern}", HELD: str(folder / "held")}


def install() -> None:
    """In the process: hold, if the environment says so."""
    if PATTERN not in os.environ:
        return
    pattern, held = os.environ[PATTERN], Path(os.environ[HELD])
    rename = os.replace

    def replace(source: Any, target: Any, **named: Any) -> None:
        rename(source, target, **named)
        if fnmatch(os.fspath(target), pattern) and not held.with_name(FREE).exists():
            held.touch()
            while held.exists():
                time.sleep(0.005)

    os.replace = replace


def wait_until_held(process: Any, folder: Path) -> None:
    """Wait until a process has written its file."""
    deadline = time.monotonic() + WAIT_SEC
    while not (folder / "held").exists():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            raise subprocess.TimeoutExpired("held", WAIT_SEC)
        time.sleep(0.005)
