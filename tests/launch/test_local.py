"""launch/local.sh: real ranks on the CPUs of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment, pack
from repository import REPO

LOCAL = REPO / "launch" / "local.sh"


def local(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", LOCAL, *map(str, arguments)],
        env=environment(PYTHON=sys.executable, PYTHONPATH=str(REPO), **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_two_ranks_train(scenes, tmp_path: Path) -> None:
    data, out = pack(scenes.train, tmp_path / "data"), tmp_path / "s1"
    flags = ["--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "4"]
    flags += ["--loader-workers", "0", "--fusion-stride", "8", "--epochs", "1"]
    flags += ["--cache-dir", str(tmp_path / "cache")]
    done = local("stage1", "--data", data, "--out", out, *flags, RANKS="2")
    assert done.returncode == 0, done.stdout
    assert "2 rank(s) on cpu" in done.stdout
    assert len(list((out / "commits").iterdir())) == 1


def test_without_a_command_it_says_how_it_is_used() -> None:
    done = local()
    assert done.returncode == 2
    assert "launch/local.sh stage1 --data" in done.stdout
