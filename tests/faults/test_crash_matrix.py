"""Commands killed again and again: the same files, nothing temporary, no process left.

`make soak` does it for hours and for every command; here a few kills show that both sides work.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import environment
from repository import REPO

SABOTAGE = """
import sys
import time
sys.argv[0] = {script!r}
sys.path.insert(0, {folder!r})
import soak
kill_once = soak.Soak._kill_once
def spoil(self, job, found, usual_sec):
    kill_once(self, job, found, usual_sec)
    (self.work / job.name).mkdir(exist_ok=True)
    (self.work / job.name / "shard-00000.tar.tmp").write_bytes(b"left")
    (self.work / job.name / "more.json").write_bytes(b"")
soak.Soak._kill_once = spoil
soak.main()
"""


def soak(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment(PYTHONPATH=str(REPO)),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_killed_commands_give_the_files_of_one_that_nobody_killed(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    flags = ("--kills", "2", "--jobs", "data", "stage1", "--seed", "3", "--out", str(out))
    done = soak(str(REPO / "benchmarks" / "soak.py"), *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["kills"] == 2
    assert result["problems"] == 0
    assert all(row["files_compared"] for row in result["rounds"][0]["jobs"].values())


@pytest.mark.slow
def test_what_a_kill_leaves_is_found(tmp_path: Path) -> None:
    out, script = tmp_path / "soak.json", REPO / "benchmarks" / "soak.py"
    code = SABOTAGE.format(script=str(script), folder=str(script.parent))
    done = soak("-c", code, "--kills", "1", "--jobs", "data", "--out", str(out))
    assert done.returncode == 1, done.stderr
    (row,) = json.loads(out.read_text())["rounds"][0]["jobs"].values()
    assert any("more.json differs" in problem for problem in row["problems"])
    assert any("temporary files are left" in problem for problem in row["problems"])


def with_mark(mark: str) -> list[bytes]:
    """Command lines of running processes that have inherited a variable."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append((entry / "cmdline").read_bytes())
        except OSError:
            continue
    return [title for title in found if title]


@pytest.mark.slow
def test_a_soak_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    """Its job, with the servers and workers of Ray, has a session of its own."""
    script = str(REPO / "benchmarks" / "soak.py")
    flags = ("--kills", "1", "--jobs", "data-ray", "--folder", str(tmp_path / "soak"))
    variables = {"A2S_TEST_MARK": str(tmp_path), "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, script, *flags, "--out", str(tmp_path / "soak.json")],
        env=environment(**variables),
    )
    mark = f"A2S_TEST_MARK={tmp_path}"
    deadline = time.monotonic() + 240
    while not any(b"raylet/raylet" in title for title in with_mark(mark)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while left := with_mark(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
