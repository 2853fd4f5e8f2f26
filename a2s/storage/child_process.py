"""Processes of ours that answer this one through pipes: decoders, and workers without Ray."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, NamedTuple

from a2s.storage.files import read_text

PR_SET_PDEATHSIG = 1
OOM_SCORE = 250
"""In thousandths of the memory: how much smaller than its parent it may be when the kernel, out of
memory, ends it and not the parent."""
_PACKAGES = Path(__file__).resolve().parents[2]


class Child(NamedTuple):
    """A process and its pipes."""

    process: subprocess.Popen[bytes]
    requests: IO[bytes]
    replies: IO[bytes]

    def close(self) -> None:
        """End the process, also one that is at work."""
        self.process.kill()
        # What was not sent, because the child is dead, is not sent now either.
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        self.replies.close()
        self.process.wait()


def start(module: str) -> Child:
    """Start a Python process that runs a module of ours, which calls `settle` first.

    It dies with the thread that starts it.
    """
    paths = [str(_PACKAGES), os.environ.get("PYTHONPATH", "")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        # Ctrl-C in the terminal is for this process, which ends its children.
        process_group=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return Child(process, process.stdin, process.stdout)


def settle() -> tuple[IO[bytes], IO[bytes]]:
    """In the child: end with the parent, and not by its signals. Returns requests and replies."""
    # Signals that end a whole job are for the parent; what is at work must not be blamed for them.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Native code that hangs notices neither the end of the parent nor of its time; the kernel does.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # The parent reports a crash; a file of this process's memory would help nobody.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    requests, replies = os.fdopen(0, "rb"), os.fdopen(os.dup(1), "wb")
    _end_before_the_parent()
    # What native code prints must not come between the replies.
    os.dup2(2, 1)
    return requests, replies


def _end_before_the_parent() -> None:
    """If the kernel must kill for lack of memory, one task is lost and not a whole command."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        file.write_text(str(min(1000, int(read_text(file)) + OOM_SCORE)))
