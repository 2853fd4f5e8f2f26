"""Model actors whose GPUs are occupied, join late or are lost; Ray only simulates the GPUs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from a2s.parallel import model_actors, pool, ray_session
from a2s.parallel.model_actors import ModelActors, ModelStage


class Host:
    """An actor that starts like a model actor, but has no model."""

    def __init__(self, isolation: Any = None, build: Callable[[], Any] | None = None) -> None:
        self.build = build

    def ping(self) -> None:
        """Return once the actor has started."""

    def num_gpus(self) -> int:
        import ray

        return len(ray.get_gpu_ids())


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    """A session with two GPUs."""
    import ray

    ray_session.create_private_token()
    ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def ray_of_two(session: Any) -> Iterator[Any]:
    """The session; waits on teardown until the test has freed both GPUs."""
    yield session
    wait_until(lambda: session.available_resources().get("GPU") == 2)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def actors(ray_of_two: Any, notes: list[str]) -> Iterator[ModelActors]:
    made = ModelActors(ray_of_two, Host, ModelStage(lambda: print), nullcontext, notes.append)
    yield made
    made.close()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def occupy_gpus(ray_of_two: Any) -> Iterator[Callable[[int], list[Any]]]:
    """Function that occupies GPUs with actors of another job."""
    others: list[Any] = []

    def occupy(number: int) -> list[Any]:
        others.extend(
            ray_of_two.remote(num_cpus=0, num_gpus=1)(Host).remote() for _ in range(number)
        )
        ray_of_two.get([other.ping.remote() for other in others], timeout=60)
        return others

    yield occupy
    for other in others:
        ray_of_two.kill(other)


def test_calls_go_to_started_actors(
    occupy_gpus: Callable[[int], list[Any]], actors: ModelActors, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupy_gpus(1)
    actors.resize(2, at_most=16)
    wait_until(lambda: any(actors.has_started(actor) for actor in actors.all))
    (started,) = (actor for actor in actors.all if actors.has_started(actor))
    (waiting,) = (actor for actor in actors.all if actor is not started)
    assert actors.least_busy([started] * 9) is started
    assert not actors.is_late(waiting), "it was created only just now"
    monkeypatch.setattr(model_actors, "ACTOR_START_SEC", 0.0)
    assert actors.is_late(waiting)
    assert not actors.is_late(started)
    # An actor without a GPU is killed before a started one.
    actors.resize(1, at_most=16)
    assert actors.all == [started]


def test_calls_go_to_the_least_busy_actor(actors: ModelActors) -> None:
    actors.resize(2, at_most=16)
    wait_until(lambda: all(actors.has_started(actor) for actor in actors.all))
    first, second = actors.all
    assert actors.least_busy([first, second, first]) is second
    assert actors.least_busy([second, None]) is first


def test_missing_gpus_are_reported_once(
    occupy_gpus: Callable[[int], list[Any]],
    actors: ModelActors,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    occupy_gpus(2)
    actors.resize(1, at_most=16)
    assert notes == []
    monkeypatch.setattr(model_actors, "ACTOR_START_SEC", 0.0)
    for _ in range(2):
        actors.resize(1, at_most=16)
    assert notes == ["no GPU of the cluster is free; waiting for one"]
    assert not actors.is_late(actors.all[0]), "no other actor could take its calls"


def test_an_actor_requests_a_gpu_even_if_all_gpus_are_lost(
    actors: ModelActors, ray_of_two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_of_two, "cluster_resources", lambda: {"CPU": 2.0})
    assert pool.num_gpus() == 0
    actor = actors.least_busy([])
    assert ray_of_two.get(actor.handle.num_gpus.remote(), timeout=60) == 1
