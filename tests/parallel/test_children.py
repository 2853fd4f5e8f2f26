"""Child processes: the same results, every item once, and what an item does to them is found."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from a2s.errors import DataError
from a2s.parallel import pool, ray_session
from a2s.parallel.division import Division, halves
from a2s.parallel.tasks import Tally

entered = 0


@contextlib.contextmanager
def counted() -> Iterator[None]:
    global entered
    entered += 1
    yield


@contextlib.contextmanager
def broken() -> Iterator[None]:
    os._exit(7)
    yield


def squares(numbers: list[int], offset: int = 0) -> list[tuple[int, int, bool]]:
    here = threading.current_thread() is threading.main_thread()
    return [(number**2 + offset, entered, here) for number in numbers]


def obey(numbers: list[int], folder: Path) -> list[Any]:
    for number in numbers:
        if number == 5:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == 6:
            os._exit(3)
        if number == 7:
            signal.raise_signal(signal.SIGALRM)
        if number == 9:
            raise DataError(f"number {number} is odd")
        if number == 11:
            raise ZeroDivisionError("a bug")
        if number == 13 and (attempts := len([*folder.iterdir()])) < 2:
            # As the kernel does, while others use the memory.
            (folder / f"{attempts}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return numbers


def joined(item: list[int], parts: list[list[Any]]) -> list[Any]:
    return [result for part in parts for result in part]


def given_up(item: list[int], reason: str, detail: str) -> list[Any]:
    return [(item[0], reason, detail)]


def mapped(fn: Any, items: Any, **named: Any) -> Any:
    division: Division[Any, Any] = Division(halves, joined, given_up)
    return pool.map_items(fn, items, workers=0, children=2, division=division, **named)


@pytest.fixture
def before() -> set[int]:
    """Processes that other tests have left to this one."""
    return ray_session.children()


def test_every_item_is_computed_once_in_a_main_thread_of_its_own(before: set[int]) -> None:
    items = [[number, number + 1] for number in range(0, 60, 2)]
    tally = Tally()
    found = list(mapped(squares, items, common=(1,), isolation=counted, tally=tally))
    assert sorted(joined([], found)) == [(number**2 + 1, 1, True) for number in range(60)]
    assert tally.crashed == 0
    assert tally.worker_sec > 0
    assert entered == 0
    assert ray_session.children() <= before


def test_what_ends_its_child_is_found_and_given_up(tmp_path: Path) -> None:
    ends = {
        5: ("crashes", "its process ended with SIGSEGV"),
        6: ("crashes", "its process ended with exit code 3"),
        7: ("timeout", "not decoded in time, stopped"),
    }
    notes: list[str] = []
    items = [[0, 1], [5, 4], [8, 6], [12], [7]]
    found = mapped(obey, items, common=(tmp_path,), note=notes.append, name=lambda item: f"{item}")
    lost = {number: (number, *end) for number, end in ends.items()}
    expected = [[0, 1], [lost[5], 4], [8, lost[6]], [12], [lost[7]]]
    assert sorted(found, key=str) == sorted(expected, key=str)
    for number, (_, detail) in ends.items():
        assert f"[{number}]: {detail}; the image is left out" in notes
    assert f"[5, 4]: {ends[5][1]}; looking for the image that does it" in notes


def test_a_child_that_was_killed_for_others_costs_no_item(tmp_path: Path) -> None:
    tally = Tally()
    assert list(mapped(obey, [[13, 1]], common=(tmp_path,), tally=tally)) == [[13, 1]]
    assert len([*tmp_path.iterdir()]) == 2
    assert tally.crashed == 2


def test_exceptions_reach_the_caller(before: set[int], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^number 9 is odd$"):
        list(mapped(obey, [[9]], common=(tmp_path,)))
    with pytest.raises(RuntimeError, match=r"(?s)in a child process:.*ZeroDivisionError: a bug"):
        list(mapped(obey, [[11]], common=(tmp_path,)))
    assert ray_session.children() <= before


def test_a_child_that_does_not_start_is_not_blamed_on_the_items(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"did not start \(exit code 7\)"):
        list(mapped(obey, [[1]], common=(tmp_path,), isolation=broken))


def test_results_that_nobody_takes_end_the_children(before: set[int], tmp_path: Path) -> None:
    with contextlib.closing(mapped(obey, [[1], [2], [3], [4]], common=(tmp_path,))) as results:
        next(results)
        assert len(ray_session.children() - before) == 2
    assert ray_session.children() <= before
