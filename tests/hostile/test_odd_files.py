"""Named pipes, sockets, devices and dead links with the names of files: no command waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import ODD_NAMES, mask, odd_files, picture

LIMIT_SEC = 60.0


def a2s(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command; it ends by itself, without a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "a2s", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=LIMIT_SEC,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def reasons(folder: Path) -> dict[str, str]:
    lines = (folder / "failures.jsonl").read_text("utf-8").splitlines()
    return {Path(line["path"]).stem: line["reason"] for line in map(json.loads, lines)}


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    odd_files(folder, ".png")
    (folder / "fine.png").write_bytes(picture("PNG", side=64))
    return folder


def test_shard_lists_them(odd: Path, tmp_path: Path) -> None:
    assert a2s("shard", odd, "--out", tmp_path / "out", "--workers", 0).returncode == 3
    assert reasons(tmp_path / "out") == dict.fromkeys(ODD_NAMES, "unreadable")


def test_predict_lists_them(odd: Path, tmp_path: Path) -> None:
    done = a2s("predict", odd, "--model", "rbd", "--out", tmp_path / "out", "--workers", 0)
    assert done.returncode == 3
    assert reasons(tmp_path / "out") == dict.fromkeys(ODD_NAMES, "unreadable")
    assert (tmp_path / "out" / "fine.png").is_file()


@pytest.mark.parametrize("side", ["--pred", "--truth"])
def test_evaluate_lists_them(side: str, odd: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (odd / "fine.png").write_bytes(mask())
    for name in (*ODD_NAMES, "fine"):
        (other / f"{name}.png").write_bytes(mask())
    second = "--truth" if side == "--pred" else "--pred"
    done = a2s("evaluate", side, odd, second, other, "--out", tmp_path / "out", "--workers", 0)
    assert done.returncode == 3
    assert reasons(tmp_path / "out") == dict.fromkeys(ODD_NAMES, "unreadable")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("x.txt", ["shard", "x.txt", "--out", "out"]),
        ("x.tar", ["shard", "x.tar", "--out", "out"]),
        ("x.tar.gz", ["predict", "x.tar.gz", "--model", "rbd", "--out", "out"]),
        ("x.yaml", ["shard", "images", "--out", "out", "--config", "x.yaml"]),
        ("x.pth", ["import-weights", "x.pth", "--out", "out.safetensors"]),
        ("x.safetensors", ["predict", "images", "--model", "x.safetensors", "--out", "out"]),
        ("out/config.yaml", ["shard", "images", "--out", "out"]),
        ("out/shard-000000.json", ["predict", "out", "--model", "rbd", "--out", "preds"]),
        ("out/shard-000000.json", ["status", "out"]),
        ("out/metrics.jsonl", ["status", "out"]),
        ("out/commits/00001.json", ["predict", "images", "--model", "out", "--out", "preds"]),
    ],
)
def test_a_named_pipe_in_place_of_a_file_is_one_line(
    name: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "out/commits"):
        Path(folder).mkdir(parents=True)
    Path("images/a.png").write_bytes(picture("PNG", side=64))
    if name == "out/metrics.jsonl":
        Path("out/config.yaml").write_text("stage1: {epochs: 1}\nidentity: {command: stage1}\n")
    os.mkfifo(name)
    done = a2s(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("a2s: ")
    assert len(done.stderr.splitlines()) == 1
