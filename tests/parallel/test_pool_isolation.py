"""Items that kill or stop their process: isolated where the caller can, else found and given up."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
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


def work(item: int) -> tuple[int, bool]:
    if item == DEADLY and not is_isolated:
        os._exit(1)
    return item, is_isolated


def always_dies(item: int) -> int:
    os._exit(1)


class Model:
    """A model stage that dies on an item outside isolation, and runs some calls at once."""

    def __call__(self) -> Any:
        return self.step

    def step(self, item: int) -> bool:
        time.sleep(0.2)
        return work(item)[1]


def paired(item: int, was_isolated: bool) -> tuple[int, bool, bool]:
    return item, was_isolated, is_isolated


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with pool.session(workers=2):
        yield


def test_without_ray_everything_runs_in_isolation() -> None:
    results = pool.map_items(work, [1, DEADLY], workers=0, isolation=isolation)
    assert list(results) == [(1, True), (DEADLY, True)]
    assert not is_isolated
    results = pool.map_items(work, range(9), workers=0, threads=2, isolation=isolation)
    assert sorted(results) == [(item, True) for item in range(9)]


def test_with_ray_too(session: None) -> None:
    tally = tasks.Tally()
    results = pool.map_items(work, range(8), workers=2, isolation=isolation, tally=tally)
    assert sorted(results) == [(item, True) for item in range(8)]
    results = pool.map_items(
        paired,
        range(8),
        workers=2,
        model_stage=model_actors.ModelStage(Model()),
        isolation=isolation,
        tally=tally,
        deadline_sec=30,
    )
    assert sorted(results) == [(item, True, True) for item in range(8)]
    assert tally.crashed == 0


def test_what_dies_all_the_same_is_given_up_in_one_line(session: None) -> None:
    results = pool.map_items(always_dies, [1], workers=1, isolation=isolation, note=print)
    with pytest.raises(A2SError, match=r"1: its worker process died \(given up after 3 times"):
        list(results)


def double(items: list[int], folder: Path) -> list[int]:
    """End the process at one item, hang at another; a death notes how many work at that time."""
    mark = folder / f"at-work-{os.getpid()}"
    mark.touch()
    if DEADLY in items:
        time.sleep(0.3)
        mark.unlink()
        beside = len(list(folder.glob("at-work-*")))
        (folder / f"death-{time.monotonic_ns()}").write_text(f"{len(items)} {beside}")
        os._exit(1)
    if STUCK in items:
        time.sleep(60)
    time.sleep(0.6)
    mark.unlink()
    return [2 * item for item in items]


def joined(items: list[int], parts: list[list[int]]) -> list[int]:
    return [value for part in parts for value in part]


def left_out(items: list[int], reason: str, detail: str) -> list[str]:
    return [f"{item}: {reason}, {detail}" for item in items]


DIVISION = pool.Division(pool.halves, joined, left_out)
CHUNKS = [list(range(first, first + 8)) for first in range(0, 40, 8)]


def test_the_one_that_kills_its_process_is_found_and_the_others_are_done(
    session: None, tmp_path: Path
) -> None:
    notes = list[str]()
    results = pool.map_items(
        double,
        [[item for item in chunk if item != STUCK] for chunk in CHUNKS],
        workers=2,
        common=(tmp_path,),
        division=DIVISION,
        note=notes.append,
    )
    found = [value for result in results for value in result]
    assert sorted(value for value in found if isinstance(value, int)) == [
        2 * item for item in range(40) if item not in (DEADLY, STUCK)
    ]
    assert [value for value in found if isinstance(value, str)] == [
        f"{DEADLY}: crashes, its worker process died"
    ]
    deaths = [
        tuple(map(int, path.read_text().split())) for path in sorted(tmp_path.glob("death-*"))
    ]
    sizes = [size for size, _ in deaths]
    assert sizes[:2] == [7, 7]
    assert sizes[-2:] == [1, 1]
    assert sizes == sorted(sizes, reverse=True)
    assert deaths[-1] == (1, 0), "with nothing beside it"
    assert notes[-1].endswith("the image is left out")
    assert notes[-2].endswith("trying again with nothing beside it")


@pytest.mark.slow
def test_the_one_that_never_ends_is_found_too(session: None, tmp_path: Path) -> None:
    results = pool.map_items(
        double,
        [[7, STUCK], [20, 21]],
        workers=2,
        common=(tmp_path,),
        division=DIVISION,
        deadline_sec=10,
        note=print,
    )
    found = [value for result in results for value in result]
    assert sorted(map(str, found)) == [
        "14",
        "40",
        "42",
        f"{STUCK}: timeout, not done after 10 s, stopped",
    ]


def without_deadly(items: list[int], parts: list[Any]) -> Any:
    return pool.Again([item for item in items if item != DEADLY])


@pytest.mark.slow
def test_an_item_may_run_again_without_what_was_found(session: None, tmp_path: Path) -> None:
    """As one does that writes a file about all its images."""
    results = pool.map_items(
        double,
        [[1, 2, DEADLY]],
        workers=2,
        common=(tmp_path,),
        division=pool.Division(pool.halves, without_deadly, left_out),
        note=print,
    )
    assert list(results) == [[2, 4]]
