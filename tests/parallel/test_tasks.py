"""What the flight decides about models when machines come late or go; the module ray is played."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from a2s.errors import A2SError
from a2s.parallel import model_actors
from a2s.parallel.model_actors import ModelStage
from a2s.parallel.tasks import HOLDER_DEATHS, Tally, TaskScheduler, _Attempt, _Item, _Lost


class Played:
    """As much of ray as starting models takes; `started` are those whose process runs."""

    def __init__(self, **resources: int) -> None:
        self.resources = resources
        self.options: list[dict[str, Any]] = []
        self.started: list[object] = []
        self.killed: list[Any] = []

    def cluster_resources(self) -> dict[str, int]:
        return self.resources

    def put(self, value: object) -> object:
        return value

    def wait(self, references: list[object], *, timeout: float) -> tuple[list[object], object]:
        return [reference for reference in references if reference in self.started], None

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)

    def remote(self, **options: Any) -> Any:
        self.options.append(options)

        def actor(*arguments: object) -> Any:
            return SimpleNamespace(here=SimpleNamespace(remote=object))

        return lambda thing: SimpleNamespace(remote=actor)


def flight_of(ray: Played, notes: list[str] | None = None) -> TaskScheduler:
    return TaskScheduler(
        ray,
        print,
        object,
        (print,),
        before=ModelStage(lambda: print),
        workers=16,
        tally=Tally(),
        note=[].append if notes is None else notes.append,
    )


def held(flight: TaskScheduler) -> model_actors.ModelActors:
    assert flight.holders is not None
    return flight.holders


def test_a_model_waits_for_a_gpu_when_all_have_gone() -> None:
    ray = Played(CPU=16, GPU=1)
    flight = flight_of(ray)
    ray.resources = {"CPU": 16}
    held(flight).all.clear()
    held(flight).least_busy([])
    assert ray.options[-1]["num_gpus"] == 1


@pytest.mark.parametrize(("num_gpus", "enough"), [(8, True), (1, False)])
def test_a_machine_may_take_many_models_with_it(num_gpus: int, enough: bool) -> None:
    flight = flight_of(Played(CPU=16, GPU=num_gpus))

    def lose() -> None:
        item = _Item("chunk", attempts=1)
        for _ in range(HOLDER_DEATHS + 1):
            attempt = _Attempt(item, held(flight).least_busy([]))
            flight._lost(attempt, _Lost("model", "gone"), "chunk", retries=2)

    if enough:
        lose()
    else:
        with pytest.raises(A2SError, match="given up after 4 times"):
            lose()


def test_work_goes_to_models_that_are_here() -> None:
    ray = Played(CPU=16, GPU=3)
    models = held(flight_of(ray))
    first, second, third = models.all
    assert models.least_busy([first, second]) is third
    ray.started.append(second.here)
    assert models.least_busy([second] * 9) is second
    assert not models.misses(first), "it has only just been asked for"
    first.asked -= model_actors.WAITING_SEC + 1
    assert models.misses(first)
    second.asked -= model_actors.WAITING_SEC + 1
    assert not models.misses(second)


def test_a_model_without_a_gpu_goes_before_those_that_work() -> None:
    ray = Played(CPU=16, GPU=3)
    models = held(flight_of(ray))
    first, second, third = models.all
    ray.started += [second.here, third.here]
    models.resize(2, at_most=16)
    assert models.all == [second, third]
    assert ray.killed == [first.actor]


def test_it_is_said_once_that_no_gpu_is_free() -> None:
    ray, notes = Played(CPU=16, GPU=1), list[str]()
    models = held(flight_of(ray, notes))
    models.resize(1, at_most=16)
    assert notes == []
    models.all[0].asked -= model_actors.WAITING_SEC + 1
    for _ in range(2):
        models.resize(1, at_most=16)
    assert notes == ["no GPU of the cluster is free; waiting for one"]
    assert not models.misses(models.all[0]), "nobody else could take its work"
