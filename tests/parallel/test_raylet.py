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

WAIT_SEC = 120
"""Nothing is this slow, also on a busy machine."""
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
    deadline = time.monotonic() + WAIT_SEC
    while not running.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    started = ray_session.descendants({process.pid})
    (raylet,) = [pid for pid in started if ray_session.RAYLET in ray_session._command_line(pid)]
    os.kill(raylet, signal.SIGKILL)
    errors = process.communicate(timeout=WAIT_SEC)[1]
    assert process.returncode == 2, errors
    (line,) = [line for line in errors.splitlines() if line.startswith("a2s: ")]
    assert "Ray has died on this machine" in line
    assert "Traceback" not in errors
    deadline = time.monotonic() + WAIT_SEC
    while left := [pid for pid, since in started.items() if is_running(pid, since)]:
        assert time.monotonic() < deadline, [ray_session._command_line(pid) for pid in left]
        time.sleep(0.1)


def is_running(pid: int, since: str) -> bool:
    """Whether a process is still that which began at a time."""
    return ray_session._processes().get(pid, (0, ""))[1] == since


def test_a_command_that_is_killed_while_ray_starts_leaves_no_process(tmp_path: Path) -> None:
    """Some of Ray's agents do not notice it by themselves."""
    mark = f"A2S_TEST_MARK={tmp_path}"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "running")],
        env={**os.environ, "PYTHONPATH": str(REPO), "A2S_TEST_MARK": str(tmp_path)},
        start_new_session=True,
    )
    deadline = time.monotonic() + WAIT_SEC
    while not any(b"dashboard/agent.py" in title for title in with_variable(mark)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + WAIT_SEC
    while left := with_variable(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def with_variable(entry: str) -> list[bytes]:
    """Command lines of running processes that have inherited a variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if entry.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes())
        except OSError:
            continue
    return [title for title in found if title]


SIGNALLED = """
import os, sys
from a2s import __main__ as command
from a2s.parallel import pool, ray_signals
with ray_signals.import_of_ray():
    import ray
    from ray._private import node, worker

owners = {"start_gcs_server": node.Node, "connect": worker, "kill_all_processes": node.Node}
where, number = sys.argv[1], int(sys.argv[2])
real = getattr(owners[where], where)

def signalled(*arguments, **named):
    result = real(*arguments, **named)
    os.kill(os.getpid(), number)
    return result

setattr(owners[where], where, signalled)
command.run = lambda arguments: list(pool.map_items(abs, [1, 2], workers=1))
command.main()
"""


@pytest.mark.parametrize(
    ("where", "number", "code"),
    [
        ("connect", signal.SIGTERM, 143),
        pytest.param("connect", signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param("start_gcs_server", signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param("start_gcs_server", signal.SIGUSR1, 138, marks=pytest.mark.slow),
        pytest.param("kill_all_processes", signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_ray_starts_or_stops(
    where: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    process = subprocess.run(
        [sys.executable, "-c", SIGNALLED, where, str(int(number))],
        env={**os.environ, "PYTHONPATH": str(REPO), "A2S_TEST_MARK": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=WAIT_SEC,
    )
    assert process.returncode == code, process.stderr
    assert "Traceback" not in process.stderr
    deadline = time.monotonic() + WAIT_SEC
    while left := with_variable(f"A2S_TEST_MARK={tmp_path}"):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


class Broken:
    """Ray, which does not start."""

    def init(self, **ignored: Any) -> None:
        raise Exception("The current node timed out during startup. This could happen because …")


def test_a_ray_that_does_not_start_is_one_line() -> None:
    with pytest.raises(StorageError, match=r"did not start .*timed out during startup\); repeat"):
        ray_session.start_local(Broken(), 1)
    ray_session.end_reapers()
