"""Signals that come while Ray starts or stops are handled after it, whatever Ray installs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from a2s.parallel import ray_reaper, ray_signals
from a2s.storage import processes


class Ended(Exception):
    """Instead of the end of this process."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What this process's handler has seen, and the exit codes with which it would have ended."""
    seen = list[object]()
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    # Whoever runs the tests in the background lets their processes ignore Ctrl-C.
    ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)

    def exit_now(code: int) -> None:
        seen.append(("exit", code))
        raise Ended

    monkeypatch.setattr(os, "_exit", exit_now)
    monkeypatch.setattr(processes, "is_command", True)
    yield seen
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, ctrl_c)


def test_a_signal_is_handled_when_the_block_ends(seen: list[object]) -> None:
    ours = signal.getsignal(signal.SIGTERM)
    with ray_signals.deferred():
        signal.signal(signal.SIGTERM, lambda number, frame: seen.append("Ray's"))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == []
    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is ours


def starts(number: signal.Signals) -> None:
    """What a start of Ray does when a signal has ended Ray's own processes."""
    with ray_signals.deferred():
        os.kill(os.getpid(), number)
        raise ValueError


def works() -> None:
    """What Ray makes of exceptions."""
    with ray_signals.unchanged():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise SystemExit(1) from None


def test_it_wins_over_the_error_that_it_may_have_caused(seen: list[object]) -> None:
    with pytest.raises(KeyboardInterrupt):
        starts(signal.SIGINT)


def test_nobody_waits_for_long(seen: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_signals, "SAME_SEC", -1.0)
    with pytest.raises(Ended):
        starts(signal.SIGTERM)
    assert seen[0] == ("exit", 143)
    ended = threading.Event()
    monkeypatch.setattr(ray_signals, "SAME_SEC", 60.0)
    monkeypatch.setattr(ray_signals, "PATIENCE_SEC", 0.01)
    monkeypatch.setattr(ray_signals, "_end", lambda number: ended.set())
    with ray_signals.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        assert ended.wait(60)


def test_what_a_handler_raises_is_not_changed() -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            works()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("told", "found", "num_rounds"),
    [
        (b"done", [1, 0, 0, 1], 3),
        # A process that was being started is seen late.
        (b"", [3, 0, 0, 0, 1, *[0] * 20], 5 + ray_reaper.QUIET_ROUNDS),
        (b"", [1] * 200, ray_reaper.ROUNDS),
    ],
)
def test_the_reaper_looks_until_it_is_sure(
    told: bytes, found: list[int], num_rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter(found)
    called = list[bytes]()

    def end_all(mark: bytes) -> int:
        called.append(mark)
        return next(rounds)

    reader, writer = os.pipe()
    os.write(writer, told)
    os.close(writer)
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.argv", ["", "NAME=mark"])
        monkeypatch.setattr(ray_reaper, "end_all", end_all)
        monkeypatch.setattr(ray_reaper, "ROUND_SEC", 0)
        ray_reaper.main()
    assert called == [b"NAME=mark"] * num_rounds
