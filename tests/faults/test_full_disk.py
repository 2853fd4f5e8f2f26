"""Full disk: one-line error, exit code 2, no partial files; resumes once there is free space."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import environment, pack

from a2s.data.synthetic import render_folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 160 KiB; needs permission to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"CANNOT MOUNT A SMALL FILE SYSTEM: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _shard(images: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "a2s", "shard", str(images), "--out", str(out)),
            *("--workers", "0", "--shard-size", "4"),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_shard_reports_a_full_disk_and_resumes_with_free_space(
    tmp_path: Path, small_disk: Path
) -> None:
    render_folder(tmp_path, num_train=16, num_test=1, side_px=256, seed=5)
    images, out = tmp_path / "train", small_disk / "data"
    assert sum(file.stat().st_size for file in images.iterdir()) > 200_000
    done = _shard(images, out)
    assert done.returncode == 2, done.stderr
    assert re.search(rf"{out}/\S+: No space left on device; ", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert not list(out.glob(".*.tmp"))
    finished = {path.name: path.read_bytes() for path in out.glob("shard-*")}
    assert finished, "the disk was full before the first shard: the test would show nothing"

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    done = _shard(images, out)
    assert done.returncode == 0, done.stderr
    assert len(list(out.glob("shard-*.json"))) == 4
    for name, content in finished.items():
        assert (out / name).read_bytes() == content


def _stage1(data: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "a2s", "stage1", "--data", str(data), "--out", str(out)),
            *("--encoder.name", "mobilenet_v2", "--image-size", "32", "--batch-size", "4"),
            *("--epochs", "3", "--loader-workers", "0", "--cache-gib", "0", *flags),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
def test_a_failed_commit_is_reported_and_the_last_one_is_kept(
    scenes, tmp_path: Path, small_disk: Path
) -> None:
    """Commits are asynchronous; training stops where the next commit would start."""
    data, out = pack(scenes.train, tmp_path / "data"), small_disk / "stage1"
    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    assert _stage1(data, out, "--until-epoch", "1").returncode == 0
    used = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    size = f"remount,size={used * 3 // 2 // 1024}k"
    subprocess.run(["mount", "-o", size, str(small_disk)], check=True)
    done = _stage1(data, out)
    assert done.returncode == 2, done.stderr
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in (out / "commits").iterdir()] == ["00001.json"]

    subprocess.run(["mount", "-o", "remount,size=256m", str(small_disk)], check=True)
    done = _stage1(data, out)
    assert done.returncode == 0, done.stderr
    assert "from epoch 2" in done.stderr
    assert (out / "commits" / "00003.json").exists()
