"""What the flight decides about models when machines go; the module ray is played."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from a2s.errors import A2SError
from a2s.flight import ACTOR_DEATHS, Before, Flight, Tally, _Attempt, _Item, _Lost


class Played:
    """As much of ray as starting models takes."""

    def __init__(self, **resources: int) -> None:
        self.resources = resources
        self.options: list[dict[str, Any]] = []

    def cluster_resources(self) -> dict[str, int]:
        return self.resources

    def put(self, value: object) -> object:
        return value

    def remote(self, **options: Any) -> Any:
        self.options.append(options)
        return lambda thing: SimpleNamespace(remote=lambda *arguments: object())


def flight_of(ray: Played) -> Flight:
    return Flight(
        ray,
        print,
        object,
        (print,),
        before=Before(lambda: print),
        workers=16,
        tally=Tally(),
        note=lambda text: None,
    )


def test_a_model_waits_for_a_gpu_when_all_have_gone() -> None:
    ray = Played(CPU=16, GPU=1)
    flight = flight_of(ray)
    ray.resources = {"CPU": 16}
    flight.actors.clear()
    flight._have_actors(at_least=1)
    assert ray.options[-1]["num_gpus"] == 1


@pytest.mark.parametrize(("num_gpus", "enough"), [(8, True), (1, False)])
def test_a_machine_may_take_many_models_with_it(num_gpus: int, enough: bool) -> None:
    flight = flight_of(Played(CPU=16, GPU=num_gpus))

    def lose() -> None:
        item = _Item("chunk", attempts=1)
        for _ in range(ACTOR_DEATHS + 1):
            flight._have_actors(at_least=1)
            attempt = _Attempt(item, flight.actors[0])
            flight._lost(attempt, _Lost("model", "gone"), "chunk", retries=2)

    if enough:
        lose()
    else:
        with pytest.raises(A2SError, match="given up after 4 times"):
            lose()
