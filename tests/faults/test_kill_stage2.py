"""Stage 2 killed: the same command resumes and gives the same result."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forkserver import Process
from label_shards import write_labels
from processes import pack, run_ranks, start_ranks

EPOCHS, STEPS = 3, 4


def arguments(data: Path, out: Path, *extra: str) -> list[str]:
    flags = f"--encoder.name mobilenet_v2 --image-size 32 --batch-size 2 --epochs {EPOCHS}"
    return [
        *("stage2", "--data", str(data), "--labels", str(data.parent / "labels")),
        *("--out", str(out), *flags.split(), "--warm-epochs", "1", "--log-every", "1", *extra),
    ]


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = pack(scenes.train, tmp_path_factory.mktemp("kill2") / "data")
    write_labels(data, data.parent / "labels")
    return data


@pytest.fixture(scope="module")
def reference(data: Path) -> Path:
    """An uninterrupted run that commits at epoch ends only and reads in its own process."""
    out = data.parent / "reference"
    (done,) = run_ranks(arguments(data, out, "--loader-workers", "0"), world=1)
    assert done.code == 0, done.stderr
    return out


def kill_when(process: Process, condition: Callable[[], bool]) -> bool:
    """Kill the process as soon as the condition holds; False if it has ended before."""
    deadline = time.monotonic() + 900
    while not condition():
        if process.poll() is not None:
            assert process.returncode == 0, process.communicate()[1]
            process.communicate()
            return False
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return True


def result(out: Path) -> dict[str, bytes]:
    """Weights, momentum and rectified labels, as bytes."""
    last = out / "checkpoints" / sorted(path.name for path in (out / "checkpoints").iterdir())[-1]
    files = {name: (last / name) for name in ("model.safetensors", "optimizer.safetensors")}
    files |= {path.name: path for path in (out / "rectified").iterdir()}
    return {name: path.read_bytes() for name, path in files.items()}


def test_killed_at_any_time_and_resumed_is_bit_identical(
    data: Path, reference: Path, tmp_path: Path
) -> None:
    """With loader processes and commits after every step, against a run without them."""
    out, labels = tmp_path / "out", tmp_path / "out" / "labels"
    command = arguments(data, out, "--loader-workers", "1", "--commit-every", "1")
    # Between a written row file and the commit that would name it, in two generations.
    orphans = [
        labels / "00001" / f"s{1:08d}-r0000-00000.rows",
        labels / "00002" / f"s{2:08d}-r0000-00000.rows",
    ]
    for orphan in orphans:
        where = f"{orphan.parent.name}/{orphan.name}"
        (process,) = start_ranks(command, world=1, hold_at=where)
        process.wait_until_held()
        process.kill()
        process.communicate()
        assert orphan.exists()
    # At random moments of the rest.
    (process,) = start_ranks(command, world=1)
    metrics = (out / "metrics.jsonl").stat().st_size
    delay = random.uniform(0, 0.2)

    def random_moment() -> bool:
        if (out / "metrics.jsonl").stat().st_size == metrics:
            return False
        time.sleep(delay)
        return True

    kill_when(process, random_moment)
    (done,) = run_ranks(command, world=1)
    assert done.code == 0, done.stderr
    got, expected = result(out), result(reference)
    assert got.keys() == expected.keys()
    assert [name for name in expected if got[name] != expected[name]] == [], f"delay {delay}"
    # Orphans are gone, and the last two generations stay with the commits that name them.
    assert sorted(path.name for path in labels.iterdir() if path.is_dir()) == ["00001", "00002"]
    (again,) = run_ranks(command, world=1)
    assert again.code == 0
    assert "is done" in again.stdout
