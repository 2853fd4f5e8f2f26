"""End the processes of a Ray session whose command was killed: `python ray_reaper.py MARK`.

A process of its own, which waits for the end of its standard input, that is, of the command. Some
of Ray's agents do not notice that. It imports nothing but the standard library.
"""

from __future__ import annotations

import os
import signal
import sys
import time

ROUNDS, ROUND_SEC = 40, 0.25
"""Processes that were being started appear a little later."""


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
    sys.stdin.buffer.read()
    for _ in range(ROUNDS):
        if not end_all(os.fsencode(sys.argv[1])):
            time.sleep(ROUND_SEC)
            if not end_all(os.fsencode(sys.argv[1])):
                return
        time.sleep(ROUND_SEC)


if __name__ == "__main__":
    main()
