"""`a2s shard` as processes: killed and resumed, two at once, with Ray workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forkserver import Process
from packing_run import fill, made, shard
from processes import environment

from a2s.config.commands import ShardConfig


def command(source: Path, out: Path, *extra: str) -> list[str]:
    return [
        *(sys.executable, "-m", "a2s", "shard", str(source), "--out", str(out)),
        *("--workers", "0", "--shard-size", "3", *extra),
    ]


def test_kill_9_anywhere_then_the_same_command_gives_the_same_files(tmp_path: Path) -> None:
    source = fill(tmp_path / "in", 60)
    for number in (5, 30):
        (source / f"{number:03d}.jpg").write_bytes(b"\xff\xd8\xff")
    rate = ("--max-failure-rate", "0.5")
    shard(source, tmp_path / "whole", shard_size=3, max_failure_rate=0.5)
    expected = made(tmp_path / "whole")
    assert "shard-000019.json" in expected

    out = tmp_path / "killed"
    killed_at = []
    for target in ("work.json", "shard-000004.json", "shard-000013.tar"):
        process = Process(command(source, out, *rate)[3:], env=environment(), hold_at=target)
        process.wait_until_held()
        process.kill()
        assert process.wait() == -signal.SIGKILL
        killed_at.append(len(list(out.glob("shard-*.json"))))
        assert not (out / "failures.jsonl").exists()
    assert killed_at == [0, 5, 13]
    finished = subprocess.run(command(source, out, *rate), capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert made(out) == expected


def test_two_processes_at_once(tmp_path: Path) -> None:
    from a2s.storage.run_folder import claim

    source, out = fill(tmp_path / "in", 3), tmp_path / "out"
    config = ShardConfig(images=(str(source),), out=out, workers=0, shard_size=3)
    with claim(out, command="shard", config=config):
        other = subprocess.run(command(source, out), capture_output=True, text=True)
    assert other.returncode == 2
    assert f"pid {os.getpid()}" in other.stderr


@pytest.mark.slow
def test_ray_workers_write_what_one_process_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fill(tmp_path / "in", 10)
    (source / "bad.jpg").touch()
    shard(source, tmp_path / "one", max_failure_rate=0.5)
    # A relative path, and workers that start elsewhere.
    monkeypatch.chdir(tmp_path)
    shard(source, Path("two"), workers=2, max_failure_rate=0.5)
    assert made(tmp_path / "one") == made(tmp_path / "two")
