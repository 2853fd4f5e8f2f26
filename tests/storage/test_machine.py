"""CPUs and memory that a container or a job grants, and the defaults of threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from a2s.storage import machine


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", None), ("150000 100000", 1.5), ("50000 100000", 0.5), ("garbage", None)],
)
def test_the_quota_of_a_container(tmp_path: Path, quota: str, expected: float | None) -> None:
    write(tmp_path, cpu__max=quota)
    (tmp_path / "own").write_text("0::/\n")
    assert machine.cpu_quota(tmp_path, tmp_path / "own") == expected


def test_the_smallest_quota_of_all_groups_around_a_job_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/slurm/job_7/step_0\n")
    write(tmp_path / "slurm" / "job_7" / "step_0", cpu__max="max 100000")
    write(tmp_path / "slurm" / "job_7", cpu__max="300000 100000")
    write(tmp_path / "slurm", cpu__max="800000 100000")
    assert machine.cpu_quota(tmp_path, own) == 3


def test_the_first_version_of_control_groups(tmp_path: Path) -> None:
    own = tmp_path / "own"
    # A container sees its own group as the root, and its list names the host's path.
    own.write_text("5:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n0::/\n")
    files = {"cpu__cfs_quota_us": "150000", "cpu__cfs_period_us": "100000"}
    write(tmp_path / "cpu", **files)
    assert machine.cpu_quota(tmp_path, own) == 1.5
    write(tmp_path / "cpu", cpu__cfs_quota_us="-1")
    assert machine.cpu_quota(tmp_path, own) is None
    write(tmp_path / "memory", memory__limit_in_bytes="5000", memory__usage_in_bytes="2000")
    assert machine.free_memory_bytes(tmp_path, own) == 3000


def test_memory_is_limited_by_the_container(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("0::/\n")
    everything = machine.free_memory_bytes(tmp_path, tmp_path / "own")
    write(tmp_path, memory__max="max", memory__current="7")
    # Other processes take memory meanwhile.
    assert machine.free_memory_bytes(tmp_path, tmp_path / "own") > everything / 2
    write(tmp_path, memory__max="9000", memory__current="10000")
    assert machine.free_memory_bytes(tmp_path, tmp_path / "own") == 0


@pytest.mark.parametrize(("quota", "cpus"), [(None, 4), (0.5, 1), (1.5, 2), (3.0, 3), (9.0, 4)])
def test_cpus_are_the_affinity_and_the_quota_rounded_up(
    quota: float | None, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.num_cpus() == cpus


@pytest.mark.parametrize(
    ("quota", "given", "threads"),
    [
        (1.5, {}, "2"),
        (None, {}, None),
        (1.5, {"OMP_NUM_THREADS": "7"}, "7"),
        (1.5, {"LOCAL_WORLD_SIZE": "2"}, None),
    ],
)
def test_threads_follow_the_quota_unless_the_user_or_a_launcher_says(
    quota: float | None,
    given: dict[str, str],
    threads: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    monkeypatch.setattr(machine, "_chosen", False)
    environ = dict(given)
    machine.choose_threads(environ)
    assert environ.get("OMP_NUM_THREADS") == threads
    assert environ["GOMP_SPINCOUNT"] == machine.SPIN_COUNT


def test_ranks_share_what_was_chosen_and_keep_what_the_user_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: 4.0)
    monkeypatch.setattr(machine, "_chosen", False)
    environ: dict[str, str] = {}
    machine.choose_threads(environ)
    assert environ["OMP_NUM_THREADS"] == "4"
    machine.share_threads(environ, 2)
    assert environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(machine, "_chosen", False)
    environ = {"OMP_NUM_THREADS": "3"}
    machine.share_threads(environ, 2)
    assert environ == {"OMP_NUM_THREADS": "3"}
