"""Commands killed again and again: the same files, nothing temporary, no process left.

`make soak` does it for hours and for every command; here a few kills show that both sides work.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from processes import environment
from repository import REPO

SABOTAGE = """
import sys
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


def test_what_a_kill_leaves_is_found(tmp_path: Path) -> None:
    out, script = tmp_path / "soak.json", REPO / "benchmarks" / "soak.py"
    code = SABOTAGE.format(script=str(script), folder=str(script.parent))
    done = soak("-c", code, "--kills", "1", "--jobs", "data", "--out", str(out))
    assert done.returncode == 1, done.stderr
    (row,) = json.loads(out.read_text())["rounds"][0]["jobs"].values()
    assert any("more.json differs" in problem for problem in row["problems"])
    assert any("temporary files are left" in problem for problem in row["problems"])
