"""Stage 1 as one process: killed, repeated, refused."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, pack, run_ranks, start_ranks

from a2s.__main__ import run
from a2s.parallel import rank_main
from a2s.storage import checkpoints
from a2s.training import setup
from a2s.training.features.gpu_cache import GpuFeatureCache
from a2s.training.learning_rate import learning_rate

EPOCHS = 12


def arguments(data: Path, out: Path, *extra: str, epochs: int = EPOCHS) -> list[str]:
    flags = "--encoder.name mobilenet_v2 --image-size 32 --batch-size 4 --lr 0.1 --milestones 5"
    return [
        *("stage1", "--data", str(data), "--out", str(out), "--epochs", str(epochs)),
        *flags.split(),
        *extra,
    ]


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("stage1") / "data")


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run that recomputes every feature."""
    out = tmp_path_factory.mktemp("reference") / "out"
    extra = ("--cache-gib", "0", "--loader-workers", "0")
    (done,) = run_ranks(arguments(data, out, *extra), world=1)
    assert done.code == 0, done.stderr
    assert "(image, flip) pairs are recomputed" in done.stderr
    assert f"a2s label --model {out} --data {data}" in done.stdout
    assert "the encoder is UNTRAINED" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("stage1: the encoder is UNTRAINED")
    return out


def test_killed_and_repeated_is_bit_identical(data: Path, reference: Path, tmp_path: Path) -> None:
    """With the cache, loader processes and commits within epochs, against a run without them."""
    out = tmp_path / "out"
    extra = ("--cache-dir", str(tmp_path / "cache"), "--commit-every", "1", "--loader-workers", "1")
    (process,) = start_ranks(arguments(data, out, *extra), world=1, hold_at="commits/00005.json")
    process.wait_until_held()
    process.kill()
    process.communicate()
    assert process.returncode == -9
    commit = checkpoints.last_commit(out)
    assert commit is not None
    assert not commit.state["finished"], "killed too late to mean anything"
    (done,) = run_ranks(arguments(data, out, *extra), world=1)
    assert done.code == 0, done.stderr
    last, expected = checkpoints.last_commit(out), checkpoints.last_commit(reference)
    assert last is not None
    assert expected is not None
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert last.sha256[name] == expected.sha256[name]
    assert len(list((out / "checkpoints").iterdir())) == len(list((out / "commits").iterdir())) == 2
    assert not [path for path in out.rglob("*.tmp") if path.name != ".lock"]


def test_a_finished_run_says_so_without_torch(data: Path, reference: Path) -> None:
    code = (
        "import sys, a2s.__main__ as m\n"
        "code = m.run(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules\n"
        "sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments(data, reference)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is done" in done.stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time: the wall clock of a busy machine says nothing about the program.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5


def test_metrics_have_units_and_follow_the_schedule(reference: Path) -> None:
    lines = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert [line["lr"] for line in lines] == [0.1] * 5 + [0.01] * (EPOCHS - 5)
    for line in lines:
        assert {"step", "images_per_sec", "data_wait_share", "peak_memory_mib"} <= line.keys()
        assert 1.33 <= line["loss"] <= 1.9
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_loss_that_is_not_finite_stops_before_the_update(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extra = ("--lr", "1e38", "--cache-gib", "0", "--loader-workers", "0", "--commit-every", "1")
    (done,) = run_ranks(arguments(data, out, *extra), world=1)
    assert done.code == 2
    assert "loss is not finite at epoch 1 step 2; images: " in done.stderr
    assert "Traceback" not in done.stderr
    commit = checkpoints.last_commit(out)
    assert commit is not None
    assert commit.state["step"] == 1
    listed = json.loads((out / "nonfinite" / "epoch-1-step-2.json").read_text())
    assert len(listed["batch"]) == 4
    assert set(listed["not_finite"]) <= set(listed["batch"])


def test_features_in_device_memory_train_the_same_network(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: whether features stay or are encoded at every epoch decides nothing."""
    caches: list[GpuFeatureCache] = []

    def open_cache(device, folder, *, made_from, **shape):
        caches.append(GpuFeatureCache(device, **shape))
        return caches[-1]

    monkeypatch.setattr(setup, "open_cache", open_cache)
    monkeypatch.setattr(rank_main, "report_to_launcher", lambda function: function)
    weights = []
    for gib in ("1", "0"):
        out = tmp_path / gib
        extra = ("--cache-gib", gib, "--loader-workers", "0")
        assert run(arguments(data, out, *extra, epochs=3)) == 0
        commit = checkpoints.last_commit(out)
        assert commit is not None
        weights.append(commit.sha256["model.safetensors"])
    assert [cache.capacity for cache in caches] == [16, 0]
    assert sum(caches[0].has(row, mirrored=flip) for row in range(8) for flip in (0, 1)) > 8
    assert weights[0] == weights[1]


def test_a_damaged_shard_names_the_key(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    tar = copy / "shard-000001.tar"
    content = bytearray(tar.read_bytes())
    content[600:900] = bytes(300)
    tar.write_bytes(content)
    extra = ("--cache-gib", "0", "--loader-workers", "1")
    (done,) = run_ranks(arguments(copy, tmp_path / "out", *extra), world=1)
    assert done.code == 2, done.stderr
    assert "shard-000001.tar" in done.stderr
    assert "key" in done.stderr
    assert "Traceback" not in done.stderr


def test_learning_rate_falls_after_each_milestone() -> None:
    rates = [learning_rate(epoch, lr=1, milestones=(10, 16)) for epoch in range(1, 21)]
    assert rates == [1] * 10 + [0.1] * 6 + [0.01] * 4
