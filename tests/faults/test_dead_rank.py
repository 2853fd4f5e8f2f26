"""A rank that dies, stops, hangs or fails: the others end soon, with one line that names it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from forkserver import Process
from processes import environment, pack, start_ranks

ENDS_SEC = 40
"""With room for a machine that does other things; it takes 1 to 8 s."""


def arguments(data: Path, out: Path, *extra: str) -> list[str]:
    return [
        *("stage1", "--data", str(data), "--out", str(out), "--encoder.name", "mobilenet_v2"),
        *("--image-size", "32", "--batch-size", "2", "--epochs", "500", "--loader-workers", "0"),
        *("--cache-gib", "0", "--log-every", "1", *extra),
    ]


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("dead_rank") / "data")


def wait_for_first_commit(out: Path, processes: list[Process]) -> None:
    deadline = time.monotonic() + 120
    while not list(out.glob("commits/*.json")):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lines_of_all(outputs: list[str]) -> list[str]:
    return [line for errors in outputs for line in errors.splitlines() if line.startswith("a2s: ")]


@pytest.mark.parametrize("victim", [0, 2])
def test_the_others_of_a_killed_rank_end_and_name_it(
    data: Path, tmp_path: Path, victim: int
) -> None:
    out = tmp_path / "out"
    processes = start_ranks(arguments(data, out, "--batch-size", "3"), world=3)
    wait_for_first_commit(out, processes)
    processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    others = [process for rank, process in enumerate(processes) if rank != victim]
    outputs = [process.communicate(timeout=ENDS_SEC)[1] for process in others]
    assert time.monotonic() - began < ENDS_SEC
    assert [process.returncode for process in others] == [2, 2]
    (line,) = lines_of_all(outputs)
    pid, host = processes[victim].pid, socket.gethostname()
    assert f"rank {victim} (pid {pid} on {host}) was killed" in line
    assert "the same command resumes from the last commit" in line
    assert "Traceback" not in "".join(outputs)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_of_a_stopped_rank_end_in_the_given_time(
    data: Path, tmp_path: Path, victim: int
) -> None:
    out = tmp_path / "out"
    processes = start_ranks(arguments(data, out, "--rank-timeout-sec", "5"), world=2)
    wait_for_first_commit(out, processes)
    processes[victim].send_signal(signal.SIGSTOP)
    other = processes[1 - victim]
    try:
        _, errors = other.communicate(timeout=ENDS_SEC)
    finally:
        processes[victim].send_signal(signal.SIGCONT)
        processes[victim].kill()
        processes[victim].communicate()
    assert other.returncode == 2, errors
    (line,) = lines_of_all([errors])
    assert f"rank {victim} (pid {processes[victim].pid} on " in line
    assert "has been silent for" in line


HANGS = """
import os, time
from a2s.errors import DataError
from a2s.__main__ import main
from a2s.training.loop import TrainingRun
def hang(self, *ignored, **named):
    if os.environ["RANK"] == "{rank}":
        {action}
    return log(self, *ignored, **named)
log, TrainingRun.log = TrainingRun.log, hang
main()
"""


def run_script(script: Path, command: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """Run a script as two ranks, started without a launcher that would end them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *command],
            env=environment(**launch, RANK=str(rank), LOCAL_RANK=str(rank)),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    done = []
    for process in started:
        _, errors = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, "", errors))
    return done


def test_a_rank_that_hangs_is_blamed_with_the_line_where_it_hangs(
    data: Path, tmp_path: Path
) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS.format(rank=1, action="time.sleep(10_000)"), encoding="utf-8")
    command = arguments(data, tmp_path / "out", "--rank-timeout-sec", "5")
    waited, hung = run_script(script, command)
    assert waited.returncode == hung.returncode == 2
    (line,) = lines_of_all([waited.stderr, hung.stderr])
    assert "rank 1 (pid " in line
    assert "has made no step for" in line
    assert "it is at a2s/training/stage1.py:" in line


@pytest.mark.slow
def test_a_rank_with_a_bug_is_named_by_the_others(data: Path, tmp_path: Path) -> None:
    script = tmp_path / "bug.py"
    script.write_text(HANGS.format(rank=1, action="raise IndexError('a bug')"), encoding="utf-8")
    other, buggy = run_script(script, arguments(data, tmp_path / "out"))
    assert buggy.returncode == 1
    assert "IndexError: a bug" in buggy.stderr
    assert other.returncode == 2, other.stderr
    (line,) = lines_of_all([other.stderr])
    assert "failed: IndexError: a bug" in line


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_rank_cannot_read_ends_the_others_soon(
    data: Path, tmp_path: Path, rank: int
) -> None:
    """As an image that only one rank reads: the others wait for it in a collective."""
    script = tmp_path / "unread.py"
    action = "raise DataError('photo.jpg: truncated')"
    script.write_text(HANGS.format(rank=rank, action=action), encoding="utf-8")
    done = run_script(script, arguments(data, tmp_path / "out"))
    assert [process.returncode for process in done] == [2, 2]
    assert lines_of_all([done[rank].stderr]) == ["a2s: photo.jpg: truncated"]
    (line,) = lines_of_all([done[1 - rank].stderr])
    assert f"rank {rank} (pid " in line
    assert "failed: photo.jpg: truncated" in line


WAITS = """
import os
from a2s.__main__ import main
from a2s.storage import lock
def hold_later(out, *given, **named):
    os.utime(out / ".lock")
    return hold(out, *given, **named)
hold, lock.hold, lock.STALE_SEC = lock.hold, hold_later, 20.0
main()
"""


@pytest.mark.slow
def test_a_wait_for_the_lock_of_the_folder_is_no_hang(data: Path, tmp_path: Path) -> None:
    """Rank 0 waits longer than a rank may hang, for signs of life from another machine."""
    script, out = tmp_path / "waits.py", tmp_path / "out"
    script.write_text(WAITS, encoding="utf-8")
    out.mkdir()
    holder = "a2s stage1, pid 1 on node-b\npid 1\nmachine another\ntoken abc\n"
    (out / ".lock").write_text(holder, encoding="utf-8")
    command = arguments(data, out, "--rank-timeout-sec", "10", "--until-epoch", "1")
    done = run_script(script, command)
    assert "on another machine; waiting 20 s" in done[0].stderr
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_to_one_rank_ends_all_after_a_commit(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    processes = start_ranks(arguments(data, out, "--loader-workers", "1"), world=2)
    wait_for_first_commit(out, processes)
    processes[1].send_signal(number)
    outputs = [process.communicate(timeout=ENDS_SEC)[1] for process in processes]
    assert [process.returncode for process in processes] == [128 + number] * 2, outputs
    (line,) = lines_of_all(outputs)
    assert f"interrupted by {number.name}; epoch " in line
    assert "is committed, the same command resumes" in line
    assert "Traceback" not in "".join(outputs)
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.slow
def test_a_second_signal_ends_a_rank_that_waits_at_once(data: Path, tmp_path: Path) -> None:
    """Rank 1 is stopped, so rank 0 is deaf inside a collective."""
    processes = start_ranks(arguments(data, tmp_path / "out"), world=2)
    wait_for_first_commit(tmp_path / "out", processes)
    processes[1].send_signal(signal.SIGSTOP)
    time.sleep(1)
    try:
        processes[0].send_signal(signal.SIGINT)
        time.sleep(2.5)
        assert processes[0].poll() is None
        processes[0].send_signal(signal.SIGINT)
        began = time.monotonic()
        processes[0].communicate(timeout=ENDS_SEC)
        assert time.monotonic() - began < 15
        assert processes[0].returncode == 130
    finally:
        processes[1].send_signal(signal.SIGCONT)
        processes[1].kill()
        processes[1].communicate()


@pytest.mark.slow
def test_sigterm_ends_a_rank_that_waits_for_others_that_never_come(tmp_path: Path) -> None:
    with socket.socket() as never_answers:
        never_answers.bind(("127.0.0.1", 0))
        never_answers.listen()
        never_answers.settimeout(90)
        port = str(never_answers.getsockname()[1])
        launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": "1"}
        command = [sys.executable, "-m", "a2s", *arguments(tmp_path / "no", tmp_path / "out")]
        environ = environment(**launch, LOCAL_RANK="1")
        process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
        with never_answers.accept()[0]:
            time.sleep(1)
            process.terminate()
            began = time.monotonic()
            process.communicate(timeout=ENDS_SEC)
    assert process.returncode == 143
    assert time.monotonic() - began < 20
