"""Ctrl-C and SIGTERM: exit code, no partial files, no leftover processes, resume."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forkserver import Process
from processes import environment, pack, run_ranks

from a2s.data.synthetic import render_folder

WAIT_SEC = 120
STEPS = 3
"""Of an epoch."""


def _start(*arguments: str, hold_at: str = "") -> Process:
    return Process(list(arguments), env=environment(), hold_at=hold_at)


def _descendants(root: int) -> dict[int, str]:
    """Descendants of a process, with their titles."""
    command = ["ps", "-eo", "pid=,ppid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    found = [str(root)]
    for pid in found:
        found += [row[0] for row in rows if row[1] == pid]
    return {int(row[0]): row[2] for row in rows if row[0] in found[1:]}


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("signals")
    render_folder(root, num_train=12, num_test=1, side_px=64, seed=3)
    return pack(root / "train", root / "data", shard_size=4)


def _weights(out: Path) -> bytes:
    last = max((out / "checkpoints").iterdir())
    return (last / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
    ],
)
def test_training_commits_exits_with_the_signals_code_and_resumes(
    tmp_path: Path, data: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "s1"
    command = [
        *("stage1", "--data", str(data), "--out", str(out), "--encoder.name", "mobilenet_v2"),
        *("--image-size", "32", "--batch-size", "4", "--epochs", "12", "--loader-workers", "1"),
        *("--cache-gib", "0"),
    ]
    process = _start(*command, hold_at="commits/00001.json")
    process.wait_until_held()
    process.send_signal(number)
    process.release()
    _, errors = process.communicate(timeout=WAIT_SEC)
    assert process.returncode == code, errors
    found = re.search(rf"interrupted by {number.name}; epoch (\d+), step (\d) is committed", errors)
    assert found, errors
    assert "Traceback" not in errors
    assert not list(out.rglob("*.tmp"))

    epoch, step = map(int, found.groups())
    after = f"epoch {epoch}, step {step + 1}" if step < STEPS else f"epoch {epoch + 1}, step 1"
    process = _start(*command)
    _, errors = process.communicate(timeout=WAIT_SEC)
    assert process.returncode == 0, errors
    assert f"from {after};" in errors
    reference = tmp_path / "reference"
    (done,) = run_ranks([*command[:4], str(reference), *command[5:]], world=1)
    assert done.code == 0, done.stderr
    assert _weights(out) == _weights(reference)


@pytest.mark.slow
def test_ctrl_c_while_ray_runs_leaves_no_process(tmp_path: Path, data: Path) -> None:
    out = tmp_path / "s1"
    (done,) = run_ranks(
        [
            *("stage1", "--data", str(data), "--out", str(out), "--encoder.name", "mobilenet_v2"),
            *("--image-size", "32", "--epochs", "1", "--loader-workers", "0", "--cache-gib", "0"),
        ],
        world=1,
    )
    assert done.code == 0, done.stderr
    labels = tmp_path / "labels"
    process = _start(
        *("label", "--model", str(out), "--data", str(data), "--out", str(labels)),
        *("--workers", "2", "--batch-size", "1"),
    )
    deadline = time.monotonic() + WAIT_SEC
    while not any("ray::" in title for title in _descendants(process.pid).values()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no Ray worker appeared"
        time.sleep(0.02)
    children = _descendants(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_SEC)
    # The command may have finished its last labels just when the signal arrived.
    assert process.returncode in (130, 0), errors
    deadline = time.monotonic() + 30
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline, "processes of the stopped job are still there"
        time.sleep(0.2)
    assert not list(labels.glob(".*.tmp"))
    # The table of a shard is written before its manifest, which makes it valid.
    again = _start(
        *("label", "--model", str(out), "--data", str(data), "--out", str(labels)),
        *("--workers", "0", "--batch-size", "1"),
    )
    _, errors = again.communicate(timeout=WAIT_SEC)
    assert again.returncode == 0, errors
    assert len(list(labels.glob("shard-*.json"))) == 3
