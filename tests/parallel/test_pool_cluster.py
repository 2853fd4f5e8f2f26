"""Pool on a Ray cluster: nodes that join or are lost, stragglers, model actors."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from repository import REPO

from a2s.errors import A2SError
from a2s.parallel import model_actors, pool, ray_session, tasks

SLOW_SEC = 0.4


def node_of(item: int) -> tuple[int, str]:
    import ray

    time.sleep(SLOW_SEC)
    return item, ray.get_runtime_context().get_node_id()


def sleeps_at_first(item: int, folder: Path) -> tuple[int, str]:
    marker = folder / f"{item}"
    first = not marker.exists()
    marker.touch()
    if item == 5 and first:
        time.sleep(600)
    time.sleep(0.05)
    return item, "first" if first else "copy"


class Where:
    """A model stage that records its process and dies on some items."""

    def __init__(self, folder: Path, deadly: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.deadly = deadly

    def __call__(self) -> Any:
        return self.step

    def step(self, item: int) -> int:
        if item in self.deadly and (len(list(self.folder.glob("death-*"))) < 1 or item < 0):
            (self.folder / f"death-{os.getpid()}").touch()
            os._exit(1)
        time.sleep(0.1)
        return os.getpid()


def paired(item: int, prepared: int) -> tuple[int, int]:
    return item, prepared


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster with a head node of one CPU; tests add and remove other nodes."""
    from ray.cluster_utils import Cluster

    # Nodes of a real cluster have a2s installed.
    monkeypatch.setenv("PYTHONPATH", f"{REPO}:{REPO}/tests/helpers")
    ray_session.create_private_token()
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20},
    )
    try:
        yield made
    finally:
        made.shutdown()


def add_node(cluster: Any, **resources: int) -> Any:
    return cluster.add_node(object_store_memory=80 * 2**20, **resources)


@pytest.mark.slow
def test_a_new_node_is_used_and_a_lost_node_loses_no_item(cluster: Any) -> None:
    tally, notes = tasks.Tally(), list[str]()

    def is_noted(text: str) -> bool:
        return any(text in note for note in notes)

    def until_both_are_noted() -> Iterator[int]:
        for item in itertools.count():
            if is_noted("1 CPUs now, not 3"):
                return
            yield item

    results = pool.map_items(
        node_of,
        until_both_are_noted(),
        workers=None,
        ray_address=cluster.address,
        tally=tally,
        note=notes.append,
    )
    items, nodes, other = list[int](), set[str](), None
    for item, node in results:
        items.append(item)
        nodes.add(node)
        if len(items) == 1:
            other = add_node(cluster, num_cpus=2)
        if other is not None and other.node_id in nodes and is_noted("3 CPUs now, not 1"):
            cluster.remove_node(other, allow_graceful=False)
            other = None
    assert sorted(items) == list(range(len(items)))
    assert len(nodes) == 2
    assert tally.max_workers == 3


@pytest.mark.slow
def test_a_straggler_gets_a_speculative_copy_and_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "STRAGGLER_MIN_SEC", 1.0)
    tally, notes = tasks.Tally(), list[str]()
    started = time.monotonic()
    results = pool.map_items(
        sleeps_at_first,
        range(12),
        workers=2,
        common=(tmp_path,),
        tally=tally,
        note=notes.append,
        name="chunk {}".format,
    )
    found = dict(results)
    assert sorted(found) == list(range(12))
    assert found[5] == "copy"
    # On a busy machine others may be slow, too.
    assert tally.speculative_copies == len(notes) <= 3
    assert any(note.startswith("chunk 5: runs for") for note in notes)
    assert time.monotonic() - started < 500


def test_each_gpu_has_a_model_actor_and_a_dead_one_is_replaced(
    cluster: Any, tmp_path: Path
) -> None:
    add_node(cluster, num_cpus=1, num_gpus=2)
    tally, notes = tasks.Tally(), list[str]()
    results = pool.map_items(
        paired,
        range(30),
        workers=None,
        model_stage=model_actors.ModelStage(Where(tmp_path, deadly=(7,))),
        ray_address=cluster.address,
        tally=tally,
        note=notes.append,
    )
    found = dict(results)
    assert sorted(found) == list(range(30))
    assert len(set(found.values())) in (2, 3)
    assert tally.num_actors == 2
    assert len(list(tmp_path.glob("death-*"))) == 1
    assert any("the process that holds the model died" in note for note in notes)


class GpuHolder:
    """An actor of another job that occupies a GPU."""

    def pid(self) -> int:
        return os.getpid()


@pytest.mark.slow
def test_waiting_for_a_gpu_does_not_count_towards_the_timeout(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(model_actors, "ACTOR_START_SEC", 1.0)
    # A call takes milliseconds, but on a busy machine a process takes seconds to start.
    deadline_sec = 20.0
    add_node(cluster, num_cpus=1, num_gpus=2)
    tally, notes = tasks.Tally(), list[str]()
    with pool.session(workers=None, ray_address=cluster.address):
        others = [ray.remote(num_cpus=0, num_gpus=1)(GpuHolder).remote() for _ in range(2)]
        ray.get([other.pid.remote() for other in others], timeout=300)

        def note(text: str) -> None:
            notes.append(text)
            if text.startswith("no GPU"):
                # Free one of the two GPUs for which model actors wait, after the deadline.
                time.sleep(deadline_sec + 1)
                ray.kill(others[0])

        results = pool.map_items(
            paired,
            range(8),
            workers=None,
            model_stage=model_actors.ModelStage(Where(tmp_path)),
            ray_address=cluster.address,
            deadline_sec=deadline_sec,
            tally=tally,
            note=note,
        )
        found = dict(results)
    assert sorted(found) == list(range(8))
    assert len(set(found.values())) == 1, "the other model actor never gets a GPU"
    first, *moved = notes
    assert first == "no GPU of the cluster is free; waiting for one"
    assert moved
    assert all("has no GPU yet; another actor takes the call" in text for text in moved)
    assert tally.timed_out == 0


@pytest.mark.slow
def test_a_model_that_always_dies_ends_in_an_error(tmp_path: Path) -> None:
    results = pool.map_items(
        paired, [-1], workers=1, model_stage=model_actors.ModelStage(Where(tmp_path, deadly=(-1,)))
    )
    with pytest.raises(A2SError, match=r"holds the model died .* \(given up after 4 times"):
        list(results)


@pytest.mark.slow
def test_a_lost_node_may_take_the_actors_of_all_its_gpus_with_it(
    cluster: Any, tmp_path: Path
) -> None:
    """The limit of deaths grows with the number of actors."""
    add_node(cluster, num_cpus=1, num_gpus=2)
    results = pool.map_items(
        paired,
        [-1],
        workers=None,
        model_stage=model_actors.ModelStage(Where(tmp_path, deadly=(-1,))),
        ray_address=cluster.address,
    )
    with pytest.raises(A2SError, match=r"holds the model died .* \(given up after 7 times"):
        list(results)


def test_threads_share_the_work_and_restore_thread_counts() -> None:
    import threading

    import cv2
    import torch

    before = cv2.getNumThreads(), torch.get_num_threads()
    barrier = threading.Barrier(2, timeout=20)

    def meet(item: int) -> int:
        barrier.wait()
        return item

    assert sorted(pool.map_items(meet, range(8), workers=0, threads=2)) == list(range(8))
    assert (cv2.getNumThreads(), torch.get_num_threads()) == before

    def fail(item: int) -> int:
        raise A2SError(f"item {item}")

    with pytest.raises(A2SError, match="item"):
        list(pool.map_items(fail, range(8), workers=0, threads=2))
