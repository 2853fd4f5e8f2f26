"""`a2s status` after an error, Ctrl-C and SIGTERM: that it stopped, why and when."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from labelling_run import write_model
from packing_run import fill, shard
from processes import environment
from status_folders import ask

from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.errors import DataError

# `a2s` that packs one shard and then waits, so that the signal never comes too late.
HELD = """
import time
from a2s.__main__ import main
from a2s.commands import shard

pack = shard.pack

def held(task, work):
    if task.number:
        time.sleep(600)
    return pack(task, work)

shard.pack = held
main()
"""


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def stop(*args: object, **options: object) -> NoReturn:
        raise error

    return stop


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (DataError("the disk\nwent away"), "the disk went away"),
        (KeyboardInterrupt(), "interrupted (Ctrl-C)"),
        (SystemExit(143), "ended by SIGTERM"),
        (MemoryError(), "MemoryError"),
        (OSError(errno.ENOSPC, "No space left on device"), "OSError: [Errno 28] No space left"),
    ],
)
def test_a_job_that_ends_early_says_why_and_when(
    error: BaseException,
    why: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, out = fill(tmp_path / "in", 9), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("a2s.commands.shard.pack", raising(error))
        with pytest.raises(type(error)):
            shard(source, out)
    found = ask(out, capsys)
    assert (found["command"], found["state"], found["left_sec"]) == ("shard", "stopped", None)
    assert found["stopped"]["why"].startswith(why)
    assert abs(found["stopped"]["time_sec"] - time.time()) < 60
    assert shard(source, out) == 0
    found = ask(out, capsys)
    assert (found["state"], found["stopped"]) == ("finished", None)


def test_a_command_without_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model.safetensors")
    images = (str(fill(tmp_path / "in", 2)),)
    config = PredictConfig(model=model, images=images, out=tmp_path / "out", workers=0)
    with monkeypatch.context() as patch:
        patch.setattr(predict, "write_failures", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            predict.run(config)
    assert ask(config.out, capsys)["state"] == "stopped"
    assert predict.run(config) == 0
    assert ask(config.out, capsys)["state"] == "finished"


def test_a_finished_job_keeps_its_state_and_says_what_its_last_call_met(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = fill(tmp_path / "in", 2), tmp_path / "out"
    assert shard(source, out) == 0
    fill(source, 3)
    with pytest.raises(DataError):
        shard(source, out)
    found = ask(out, capsys)
    assert found["state"] == "finished"
    (problem,) = found["problems"]
    assert problem.startswith("its last call stopped at 20")
    assert "1 images were added" in problem


@pytest.mark.parametrize(
    ("number", "why"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")]
)
def test_signals_to_a_real_process(
    number: int, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = fill(tmp_path / "in", 3), tmp_path / "out"
    flags = ["--out", str(out), "--shard-size", "1", "--workers", "0"]
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, "shard", str(source), *flags],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Whoever runs the tests in the background lets their processes ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (out / "shard-000000.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    assert process.wait() == 128 + number
    record: dict[str, Any] = json.loads((out / "stopped.json").read_text())
    assert record["why"].startswith(why)
    found = ask(out, capsys)
    assert found["state"] == "stopped"
    assert found["shards_done"] == 1
