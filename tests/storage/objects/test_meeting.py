"""Ranks of one start find each other, and never those of another start."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from a2s.storage.objects import machines, meeting
from a2s.storage.objects.meeting import InStore, OnMachine, Place

START = "29500 - 0 2"
URL = "s3://bucket/out"


@pytest.fixture(params=["machine", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "machine":
        return OnMachine(tmp_path / "asks")
    request.getfixturevalue("bucket")
    found = InStore(URL)
    found.pause_sec = 0.1
    return found


def test_every_rank_is_answered_once_rank_0_is_ready(place: Place) -> None:
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(meeting.ask, place, start=START, patience_sec=60) for _ in range(2)]
        time.sleep(0.5)
        assert not any(one.done() for one in asked)
        with meeting.answering(place, start=START, says="cache 7", others=3):
            assert [one.result() for one in asked] == ["cache 7"] * 2
            # One that comes when rank 0 has found nothing to do is waited for.
            late = threads.submit(_ask_later, place)
    assert late.result() == "cache 7"
    assert place.names() == []


def _ask_later(place: Place) -> str | None:
    time.sleep(0.5)
    return meeting.ask(place, start=START, patience_sec=60)


def test_what_a_killed_start_has_left_is_no_answer(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rank 0 had the same address and port, and was ready; one of its ranks had asked."""
    monkeypatch.setattr(meeting, "LINGER_SEC", 0.0)
    place.write("killed.ask", b'{"start": "%s"}' % START.encode())
    place.write("killed.answer", b'{"says": "old"}')
    assert meeting.ask(place, start=START, patience_sec=0.5) is None
    assert place.names() == ["killed.answer", "killed.ask"]
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(meeting.ask, place, start=START, patience_sec=60)
        with meeting.answering(place, start=START, says="new", others=1):
            assert asked.result() == "new"
        # Nor does it count as one of this start's ranks; it is cleared away.
        assert place.names() == []


def test_another_start_is_not_answered(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "LINGER_SEC", 0.0)
    place.write("broken.ask", b"\xff")
    with meeting.answering(place, start="29501 - 0 2", says="x", others=1):
        assert meeting.ask(place, start=START, patience_sec=1.0) is None
    assert place.names() == ["broken.ask"]


def test_a_rank_that_never_comes_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "LINGER_SEC", 0.3)
    place, began_sec = OnMachine(tmp_path), time.monotonic()
    with meeting.answering(place, start=START, says="x", others=1):
        pass
    assert 0.3 <= time.monotonic() - began_sec < 5
    began_sec = time.monotonic()
    with (
        pytest.raises(ZeroDivisionError),
        meeting.answering(place, start=START, says="x", others=1),
    ):
        raise ZeroDivisionError
    assert time.monotonic() - began_sec < 0.3


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"WORLD_SIZE": "2"}, False),
        ({"LOCAL_WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "x"}, False),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, True),
    ],
)
def test_whether_ranks_are_on_several_machines(
    variables: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machines.are_several() is several
