"""End the processes of a Ray session whose command was killed: `python ray_reaper.py MARK`.

A process of its own, which waits for the end of its standard input, that is, of the command. Some
of Ray's agents do not notice that. It imports nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import time

DONE = b"done"
"""What a command writes that has ended its session itself."""
ROUNDS, ROUND_SEC = 80, 0.25
QUIET_ROUNDS = 12
"""After a kill, none is left if none is seen in so many rounds: a process that is being started has
no environment for a moment, and on a busy machine such a moment is long."""


def end_all(mark: bytes) -> int:
    """Kill the processes that have inherited a variable `NAME=VALUE`; return their number."""
    count = 0
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    os.kill(int(entry), signal.SIGKILL)
                    count += 1
        except OSError:
            continue
    return count


def main() -> None:
    """Wait for the end of the command, then look for its processes until none is left."""
    wanted = 2 if sys.stdin.buffer.read() == DONE else QUIET_ROUNDS
    quiet = 0
    for _ in range(ROUNDS):
        quiet = 0 if end_all(os.fsencode(sys.argv[1])) else quiet + 1
        if quiet == wanted:
            return
        time.sleep(ROUND_SEC)


if __name__ == "__main__":
    main()
