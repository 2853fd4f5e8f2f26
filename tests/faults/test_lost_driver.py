"""The node with the driver of a Ray job dies: the same command on a new cluster finishes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from labelling_run import config, encoded, shard_bytes, write_data, write_model
from processes import environment
from repository import REPO

from a2s.commands import label
from a2s.parallel import ray_session

NUM_SHARDS, STORE = 12, {"object_store_memory": 80 * 2**20}


@contextmanager
def cluster_of_two() -> Iterator[Any]:
    """Two nodes on this machine; the driver joins the first one."""
    from ray.cluster_utils import Cluster

    ray_session.create_private_token()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **STORE})
    try:
        cluster.add_node(num_cpus=1, **STORE)
        yield cluster
    finally:
        cluster.shutdown()


def processes_of(node: Any) -> list[int]:
    """Ray's servers of a node and their workers."""
    servers = [entry.process.pid for some in node.all_processes.values() for entry in some]
    return list(ray_session.descendants(set(servers)))


def start(data: Path, model: Path, out: Path, address: str) -> subprocess.Popen[str]:
    command = ["label", "--data", str(data), "--model", str(model), "--out", str(out)]
    flags = ["--workers", "auto", "--batch-size", "1", "--ray-address", address]
    return subprocess.Popen(
        [sys.executable, "-m", "a2s", *command, *flags],
        env=environment(PYTHONPATH=str(REPO)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_shards(out: Path, number: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while len(list(out.glob("shard-*.json"))) < number:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_the_same_command_on_a_new_cluster_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers of the nodes import a2s from here.
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    model = write_model(tmp_path / "model.safetensors")
    shards = [
        [(f"{number}/{n}", encoded(150, 200, seed=10 * number + n + 1)) for n in range(3)]
        for number in range(NUM_SHARDS)
    ]
    data, whole, out = write_data(tmp_path / "data", shards), tmp_path / "whole", tmp_path / "out"
    assert label.run(config(model, data, whole)) == 0
    with cluster_of_two() as cluster:
        killed = start(data, model, out, cluster.address)
        wait_for_shards(out, 2, killed)
        # The node of the driver is lost, with all its processes at once.
        for pid in (killed.pid, *processes_of(cluster.head_node)):
            os.kill(pid, signal.SIGKILL)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
    written = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*.json")}
    assert 2 <= len(written) < NUM_SHARDS, "killed too late to mean anything"
    with cluster_of_two() as cluster:
        resumed = start(data, model, out, cluster.address)
        errors = resumed.communicate(timeout=300)[1]
    assert resumed.returncode == 0, errors
    assert shard_bytes(out) == shard_bytes(whole)
    for name, time_ns in written.items():
        assert (out / name).stat().st_mtime_ns == time_ns, "what was finished is not done again"
    assert not list(out.rglob("*.tmp"))
