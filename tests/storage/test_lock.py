"""One writer per folder: holders that are suspended, hang, sit on other machines, or were lost."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from a2s.errors import ConfigError
from a2s.storage import lock, lock_holder
from a2s.storage.processes import machine_id, state_of

HOLDER = """
import sys, time
from pathlib import Path
from a2s.storage import lock
lock.BEAT_SEC = 0.1
with lock.hold(Path(sys.argv[1]), "label"):
    print("held", flush=True)
    time.sleep(120)
"""


@contextmanager
def holder(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLDER, str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def record(out: Path, *, machine: str, pid: int = 1, age_sec: float = 0) -> Path:
    """A lock's file that a holder has left."""
    path = out / lock_holder.LOCK
    fields = f"pid {pid}\nmachine {machine}\ntoken abc\n"
    path.write_text(f"a2s label, pid {pid} on node-b\n{fields}", encoding="utf-8")
    then = time.time() - age_sec
    os.utime(path, (then, then))
    return path


@pytest.fixture(autouse=True)
def _settles_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_SEC", 0.3)


def take(out: Path) -> None:
    with lock.hold(out, "label"):
        pass


def test_a_suspended_holder_is_called_that(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        while state_of(process.pid) != "T":
            time.sleep(0.01)
        with pytest.raises(ConfigError, match=f"is suspended .*kill -CONT {process.pid}"):
            take(tmp_path)


def test_a_holder_without_signs_of_life_is_explained_and_can_be_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old holder wakes up, notices and ends; whoever comes next sees the new holder."""
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        # As if it had been silent for an hour, on another machine.
        text = (tmp_path / lock_holder.LOCK).read_text().replace(machine_id(), "another")
        (tmp_path / lock_holder.LOCK).write_text(text)
        os.utime(tmp_path / lock_holder.LOCK, (time.time() - 3600,) * 2)
        with pytest.raises(ConfigError, match=r"last sign of life was 3,6\d\d s ago.*--takeover"):
            take(tmp_path)
        monkeypatch.setenv(lock.TAKEOVER, "1")
        with lock.hold(tmp_path, "stage2"):
            monkeypatch.delenv(lock.TAKEOVER)
            with pytest.raises(ConfigError, match=f"in use by a2s stage2, pid {os.getpid()} on"):
                take(tmp_path)
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 2
            assert f"was taken over by a2s stage2, pid {os.getpid()} on" in errors
        take(tmp_path)
        assert not list(tmp_path.glob("*.tmp"))


def test_a_holder_on_another_machine_that_lives_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Locks of this machine do not reach it."""
    monkeypatch.setattr(lock, "STALE_SEC", 20.0)
    path = record(tmp_path, machine="another", age_sec=2)
    alive = threading.Timer(0.5, os.utime, (path,))
    alive.start()
    with pytest.raises(ConfigError, match="in use by a2s label, pid 1 on node-b"):
        take(tmp_path)
    alive.join()
    assert "waiting 18 s for another sign of life" in capsys.readouterr().err


def test_a_holder_on_another_machine_that_died_is_waited_for_and_then_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_SEC", 1.5)
    record(tmp_path, machine="another", age_sec=0.5)
    began = time.monotonic()
    take(tmp_path)
    assert 0.8 < time.monotonic() - began < 10
    # One that ended as it should, or long ago, is not waited for.
    began = time.monotonic()
    take(tmp_path)
    record(tmp_path, machine="another", age_sec=100)
    take(tmp_path)
    assert time.monotonic() - began < 0.8


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system like some NFS mounts."""

    def refuse(file: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_locks")
def test_without_file_locks_signs_of_life_keep_a_second_writer_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(tmp_path)
    with holder(tmp_path) as process:
        with pytest.raises(ConfigError, match=f"in use by a2s label, pid {process.pid} on"):
            take(tmp_path)
        monkeypatch.setenv(lock.TAKEOVER, "1")
        take(tmp_path)
        monkeypatch.delenv(lock.TAKEOVER)
        process.wait(timeout=30)
        assert process.returncode == 2
    record(tmp_path, machine=machine_id(), pid=process.pid)
    take(tmp_path)


@pytest.mark.usefixtures("without_locks")
def test_without_file_locks_a_folder_cannot_be_shared(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"has no file locks.*give each its own --out"),
        lock.hold(tmp_path, "label", parts=[range(3)]),
    ):
        pass


def test_a_damaged_file_of_the_lock_is_in_nobodys_way(tmp_path: Path) -> None:
    for content in (b"", b"\xff\xfe\x00", b"a2s label\npid x\nmachine\ntoken\n"):
        (tmp_path / lock_holder.LOCK).write_bytes(content)
        take(tmp_path)
        assert lock_holder.Holder.read(tmp_path).token == ""


STARTER = """
import sys, time
from pathlib import Path
from a2s.storage import lock
import errno, fcntl
def refuse(file, kind):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = refuse
lock.SETTLE_SEC = 1.0
print("ready", flush=True)
sys.stdin.readline()
try:
    with lock.hold(Path(sys.argv[1]), "label"):
        print("in", flush=True)
        time.sleep(4)
except lock.ConfigError as error:
    print("refused", flush=True)
"""


@pytest.mark.slow
def test_without_file_locks_one_of_several_that_start_together_wins(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = sorted(process.communicate(timeout=60)[0] for process in started)
    assert said == ["in\n", "refused\n", "refused\n"]


def test_takeover_is_of_whole_folders_and_ends_those_that_share_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharer = HOLDER.replace('"label")', '"label", parts=[range(3)])')
    command = [sys.executable, "-c", sharer, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    monkeypatch.setenv(lock.TAKEOVER, "1")
    with (
        pytest.raises(ConfigError, match="leave out --shards"),
        lock.hold(tmp_path, "label", parts=[range(3, 6)]),
    ):
        pass
    take(tmp_path)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "was taken over by a2s label" in errors


def test_on_a_full_disk_the_holder_is_still_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path, machine="another", age_sec=5)

    def full(**ignored: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock_holder.tempfile, "TemporaryFile", full)
    holder = lock_holder.Holder.read(tmp_path)
    assert holder.token == "abc"
    assert 4 < holder.age_sec < 60
