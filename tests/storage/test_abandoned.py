"""What killed writers leave in folders that no command claims; what living ones write stays."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from repository import REPO

from a2s.commands import report
from a2s.config.checks import ReportConfig
from a2s.evaluation.page import render
from a2s.storage import files

WRITER = """
import sys, time
from pathlib import Path
from a2s.storage import files
with files.atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writes", flush=True)
    time.sleep(120)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    """A process that is writing a file."""
    command = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO)
    assert process.stdout is not None
    assert process.stdout.readline() == "writes\n"
    return process


def test_what_a_living_writer_writes_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "report.html", tmp_path / "other.html"
    alive, killed, beside = writer(path), writer(path), writer(other)
    try:
        assert len(list(tmp_path.glob(".report.html.*.tmp"))) == 2
        for process in (killed, beside):
            process.kill()
            process.communicate()
        files.remove_abandoned([path])
        assert len(list(tmp_path.glob(".report.html.*.tmp"))) == 1
        # Another file's; and names that are not those of `atomic_path`.
        assert len(list(tmp_path.glob(".other.html.*.tmp"))) == 1
        (tmp_path / ".report.html.tmp").touch()
        files.remove_abandoned([path])
        assert (tmp_path / ".report.html.tmp").exists()
    finally:
        alive.send_signal(signal.SIGKILL)
        alive.communicate()
    files.remove_abandoned([path, other])
    assert [entry.name for entry in tmp_path.iterdir()] == [".report.html.tmp"]
    files.remove_abandoned([tmp_path / "nowhere" / "x"])


def test_a_repeated_report_collects_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    process = writer(path)
    process.kill()
    process.communicate()
    monkeypatch.setattr(render, "page", lambda runs: ("<p>", []))
    assert report.run(ReportConfig(runs=(tmp_path,))) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
