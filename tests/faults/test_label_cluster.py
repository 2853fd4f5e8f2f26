"""`a2s label` on a cluster: one node joins, another is lost, the labels are the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from labelling_run import config, encoded, shard_bytes, write_data, write_model

from a2s.commands import label
from a2s.labels.making import all_shards, timing
from a2s.parallel import ray_session

NUM_SHARDS = 24


@pytest.mark.slow
def test_labels_do_not_depend_on_joining_and_lost_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray.cluster_utils import Cluster

    model = write_model(tmp_path / "model.safetensors")
    shards = [
        [(f"{number}/{n}", encoded(150, 200, seed=10 * number + n + 1)) for n in range(6)]
        for number in range(NUM_SHARDS)
    ]
    data = write_data(tmp_path / "data", shards)
    whole = tmp_path / "whole"
    assert label.run(config(model, data, whole)) == 0

    ray_session.create_private_token()
    store = {"object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **store})
    try:
        second = cluster.add_node(num_cpus=1, **store)
        seen: list[timing.StageTimes] = []
        written: list[int] = []
        removed_at: list[int] = []
        write_shard = all_shards.write_shard

        class Watched(timing.StageTimes):
            def __init__(self) -> None:
                super().__init__()
                seen.append(self)

        def watch(*arguments: Any, **settings: Any) -> None:
            write_shard(*arguments, **settings)
            written.append(arguments[2])
            if not removed_at and len(seen[0].tally.node_sec) < 2:
                # The second node's worker imports torch first, possibly on busy cores.
                time.sleep(1.5)
            if not removed_at and len(seen[0].tally.node_sec) == 2:
                removed_at.append(len(written))
                cluster.remove_node(second, allow_graceful=False)
            elif removed_at and len(written) == removed_at[0] + 3:
                cluster.add_node(num_cpus=1, **store)

        monkeypatch.setattr(all_shards, "StageTimes", Watched)
        monkeypatch.setattr(all_shards, "write_shard", watch)
        out = tmp_path / "labels"
        settings = config(
            model, data, out, workers="auto", batch_size=1, ray_address=cluster.address
        )
        assert label.run(settings) == 0
    finally:
        cluster.shutdown()
    assert sorted(written) == list(range(NUM_SHARDS))
    assert shard_bytes(out) == shard_bytes(whole)
    said = capsys.readouterr()
    assert "all CPUs of the Ray cluster" in said.err
    assert "nodes in the work:" in said.out
    assert removed_at
