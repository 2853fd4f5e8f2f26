"""The SLURM scripts under stand-ins for sbatch, srun and scontrol that start real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import Bucket
from processes import environment, pack
from repository import REPO

SLURM = REPO / "launch" / "slurm"
SRUN = """#!/usr/bin/env bash
# Starts the command once per node, all on this machine, and hands signals on, as srun does.
while [[ "$1" == --* ]]; do shift; done
pids=()
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
  SLURM_NODEID="$node" "$@" & pids+=("$!")
done
trap 'kill -USR1 "${pids[@]}"' USR1
code=0
for pid in "${pids[@]}"; do
  while true; do
    wait "$pid"; found=$?
    kill -0 "$pid" 2>/dev/null || break
  done
  [ "$found" -eq 0 ] || code="$found"
done
exit "$code"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
  show) echo 127.0.0.1 ;;
  requeue) echo "$2" >> "$SLURM_SUBMIT_DIR/requeued" ;;
esac
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Variables of a job on nodes that are all this machine."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    variables = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "VENV": str(Path(sys.executable).parents[1]),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "here",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "1",
    }
    return environment(**variables)


@pytest.fixture
def data(scenes, tmp_path: Path) -> Path:
    return pack(scenes.train, tmp_path / "data")


def sbatch(script: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SLURM / script), *map(str, arguments)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for the sockets of Ray."""
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def job() -> Iterator[list[subprocess.Popen[str]]]:
    """Jobs whose processes end with the test."""
    jobs: list[subprocess.Popen[str]] = []
    yield jobs
    for process in jobs:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_nodes_train_and_are_requeued_before_the_time_limit(
    data: Path, tmp_path: Path, slurm: dict[str, str], job: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "s1"
    flags = ["--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "4"]
    flags += ["--loader-workers", "0", "--log-every", "1", "--fusion-stride", "8"]
    flags += ["--cache-dir", str(tmp_path / "cache"), "--epochs", "100000"]
    two = {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    process = sbatch("train.sbatch", "stage1", "--data", data, "--out", out, *flags, **slurm | two)
    job.append(process)
    log = out / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.is_file() and '"step": 2' in log.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.5)
    # SLURM signals the script alone (--signal=B:USR1).
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "2 rank(s) on cpu" in said
    assert "is committed, the same command resumes" in said, said
    assert (tmp_path / "requeued").read_text().split() == [slurm["SLURM_JOB_ID"]]
    assert list((out / "commits").iterdir())


@pytest.mark.slow
def test_an_array_labels_every_shard_once(
    data: Path, tmp_path: Path, slurm: dict[str, str], job: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "labels"
    shards = sorted(path.stem for path in data.glob("shard-*.json"))
    assert len(shards) == 3
    done: list[str] = []
    for task in (5, 6):
        array = {
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_MIN": "5",
            "SLURM_ARRAY_TASK_COUNT": "2",
        }
        flags = ["--model", "rbd", "--data", data, "--out", out]
        process = sbatch("array.sbatch", *flags, **slurm, **array)
        job.append(process)
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
        now = sorted(path.stem for path in out.glob("shard-*.json"))
        assert set(now) - set(done), "this task has labelled nothing"
        done = now
    assert done == shards


def test_more_tasks_than_shards_and_no_array_at_all(
    data: Path, tmp_path: Path, slurm: dict[str, str]
) -> None:
    flags = ["--model", "rbd", "--data", data, "--out", tmp_path / "labels"]
    array = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "9"}
    said, _ = (one := sbatch("array.sbatch", *flags, **slurm, **array)).communicate(timeout=60)
    assert (one.returncode, said) == (0, "task 0 has nothing to do: 3 shards for 9 tasks\n")
    said, _ = (one := sbatch("array.sbatch", *flags, **slurm)).communicate(timeout=60)
    assert one.returncode != 0
    assert "sbatch --array" in said


@pytest.mark.slow
def test_array_tasks_on_one_machine_share_a_folder_of_a_store(
    bucket: Bucket, data: Path, tmp_path: Path, slurm: dict[str, str]
) -> None:
    bucket.upload(data, "data")
    flags = ["--model", "rbd", "--data=s3://bucket/data", "--out", "s3://bucket/labels"]
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2"}
    places = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    places |= {"A2S_CACHE": "", "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    tasks = [
        sbatch("array.sbatch", *flags, **slurm | places | array | {"SLURM_ARRAY_TASK_ID": number})
        for number in ("0", "1")
    ]
    said = [task.communicate(timeout=240)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert len([name for name in bucket.keys("labels/shard") if name.endswith(".json")]) == 3
    assert not list(tmp_path.glob("tmp.*"))


def test_an_array_task_whose_data_cannot_be_read_fails(slurm: dict[str, str]) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "1"}
    flags = ["--model", "rbd", "--data", "/nonexistent", "--out", "labels"]
    said, _ = (one := sbatch("array.sbatch", *flags, **slurm, **array)).communicate(timeout=60)
    assert (one.returncode, said) == (2, "a2s: /nonexistent: no such folder\n")


@pytest.mark.slow
def test_a_ray_cluster_of_the_job_labels(
    data: Path, tmp_path: Path, slurm: dict[str, str], short_folder: Path
) -> None:
    """In a process namespace of its own, because Ray stops all its processes that it sees."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("NO PROCESS NAMESPACE: no permission")
    out = tmp_path / "labels"
    flags = ["--model", "rbd", "--data", str(data), "--out", str(out)]
    done = subprocess.run(
        [*alone, "bash", str(SLURM / "label.sbatch"), *flags],
        env={**slurm, "RAY_TMPDIR": str(short_folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    assert len(list(out.glob("shard-*.json"))) == 3
    assert "all CPUs of the Ray cluster" in done.stdout
