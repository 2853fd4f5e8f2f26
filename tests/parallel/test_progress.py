"""Progress on terminals: a bar where there is room for one, else lines; nothing when quiet."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest

from a2s.parallel.progress import Progress

CODE = (
    "from a2s.parallel.progress import Progress, say\n"
    "say('hello')\n"
    "with Progress(4, unit='images', name='predict') as progress: progress.update(4)"
)


def on_terminal(columns: int, **variables: str) -> str:
    """What a job of four images prints on a terminal of this width."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-c", CODE]
    with subprocess.Popen(command, stderr=inner, env={**os.environ, **variables}) as process:
        process.wait(timeout=60)
    os.close(inner)
    shown = b""
    try:
        while data := os.read(outer, 4096):
            shown += data
    except OSError:  # How a terminal ends.
        pass
    os.close(outer)
    return shown.decode()


def test_a_terminal_with_columns_has_a_bar() -> None:
    assert "4/4" in on_terminal(80)


def test_a_terminal_that_reports_no_columns_has_lines() -> None:
    assert "predict: 4 of 4 (100.0%) images" in on_terminal(0)


def test_the_last_line_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("a2s.parallel.progress.INTERVAL_SEC", 0)
    with Progress(2, unit="images", name="predict") as progress:
        progress.update()
        progress.update()
    assert [line[:16] for line in capsys.readouterr().err.splitlines()] == [
        "predict: 1 of 2 ",
        "predict: 2 of 2 ",
    ]


@pytest.mark.parametrize("columns", [0, 80])
def test_quiet_shows_nothing(columns: int) -> None:
    assert on_terminal(columns, A2S_QUIET="1") == ""
