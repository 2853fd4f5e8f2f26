"""Items that kill or stop their process succeed where the caller can isolate them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from a2s.errors import A2SError
from a2s.parallel import model_actors, pool, tasks

DEADLY, STUCK = 5, 6
is_isolated = False


@contextlib.contextmanager
def isolation() -> Iterator[None]:
    """As a caller makes it: what is deadly otherwise does no harm inside."""
    global is_isolated
    is_isolated = True
    try:
        yield
    finally:
        is_isolated = False


def work(item: int, *, sleeps: bool = True) -> tuple[int, bool]:
    if item == DEADLY and not is_isolated:
        os._exit(1)
    if item == STUCK and not is_isolated and sleeps:
        time.sleep(60)
    return item, is_isolated


def always_dies(item: int) -> int:
    os._exit(1)


class Model:
    """A model stage that dies on an item outside isolation, and runs some calls at once."""

    def __call__(self) -> Any:
        return self.step

    def step(self, item: int) -> bool:
        time.sleep(0.2)
        work(item, sleeps=False)
        return is_isolated


def paired(item: int, was_isolated: bool) -> tuple[int, bool, bool]:
    return item, was_isolated, is_isolated


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with pool.session(workers=1):
        yield


def test_without_ray_everything_runs_in_isolation() -> None:
    results = pool.map_items(work, [1, DEADLY], workers=0, isolation=isolation)
    assert list(results) == [(1, True), (DEADLY, True)]
    assert not is_isolated
    results = pool.map_items(work, range(9), workers=0, threads=2, isolation=isolation)
    assert sorted(results) == [(item, True) for item in range(9)]


def test_a_task_that_dies_or_stops_is_retried_in_isolation(session: None) -> None:
    tally, notes = tasks.Tally(), list[str]()
    results = pool.map_items(
        work,
        range(8),
        workers=1,
        isolation=isolation,
        deadline_sec=3,
        tally=tally,
        note=notes.append,
        name="item {}".format,
    )
    assert sorted(results) == [(item, item in (DEADLY, STUCK)) for item in range(8)]
    assert (tally.crashed, tally.timed_out) == (1, 1)
    assert sorted(note.split(";")[0] for note in notes) == [
        "item 5: its worker process died",
        "item 6: not done after 3 s, stopped",
    ]


def test_what_dies_in_isolation_too_is_given_up_as_before(session: None) -> None:
    results = pool.map_items(always_dies, [1], workers=1, isolation=isolation, note=print)
    with pytest.raises(A2SError, match=r"1: its worker process died \(given up after 3 times"):
        list(results)


def test_the_calls_of_a_model_actor_that_dies_are_repeated_in_isolation(session: None) -> None:
    tally = tasks.Tally()
    results = pool.map_items(
        paired,
        range(8),
        workers=1,
        model_stage=model_actors.ModelStage(Model()),
        isolation=isolation,
        tally=tally,
        note=print,
        deadline_sec=30,
    )
    found = {item: both for item, *both in results}
    assert sorted(found) == list(range(8))
    assert found[DEADLY] == [True, True]
    assert found[0] == [False, False]
