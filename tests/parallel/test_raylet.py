"""Ray's server of this machine dies, or does not start: one line and exit code 2."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from repository import REPO

from a2s.errors import StorageError
from a2s.parallel import ray_session

DRIVER = """
import sys, time
from pathlib import Path
from a2s.parallel import pool
from a2s.storage import processes
processes.is_command = True
for _ in pool.map_items(time.sleep, [0, 60, 60], workers=1):
    Path(sys.argv[1]).touch()
"""


def test_a_command_whose_raylet_dies_says_so(tmp_path: Path) -> None:
    running = tmp_path / "running"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(running)],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not running.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = ray_session.descendants({process.pid})
    (raylet,) = [pid for pid in started if ray_session.RAYLET in ray_session._command_line(pid)]
    os.kill(raylet, signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("a2s: ")]
    assert "Ray has died on this machine" in line
    assert "Traceback" not in errors
    deadline = time.monotonic() + 30
    while any(ray_session.descendants({pid}).get(pid) == since for pid, since in started.items()):
        assert time.monotonic() < deadline, "Ray's processes live on"
        time.sleep(0.1)


class Broken:
    """Ray, which does not start."""

    def init(self, **ignored: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because …")


def test_a_ray_that_does_not_start_is_one_line() -> None:
    with pytest.raises(StorageError, match=r"did not start .*timed out during startup\); repeat"):
        ray_session.start_local(Broken(), 1)
