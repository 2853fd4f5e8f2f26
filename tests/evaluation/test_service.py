"""The batcher of `a2s serve`: who waits, who is told to come again, what an error costs."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from a2s.data.open_files import Held
from a2s.evaluation import service
from a2s.evaluation.service import BATCH, IN_WORK, WAITING, Batcher, make_service
from a2s.models.predict import Picture, Probabilities


def picture(text: str = "x") -> Picture:
    return Picture(text, Held(text.encode()), text)


def test_too_many_are_told_to_come_again() -> None:
    async def many() -> int:
        batcher = Batcher(lambda pictures: [])
        tasks = [asyncio.create_task(batcher.predict(picture())) for _ in range(WAITING)]
        await asyncio.sleep(0)
        assert batcher.num_waiting == WAITING
        with pytest.raises(asyncio.QueueFull):
            await batcher.predict(picture())
        for task in tasks:
            task.cancel()
        return len(tasks)

    assert asyncio.run(many()) == WAITING


def test_those_that_wait_go_together_and_in_order() -> None:
    started, sizes = threading.Event(), list[int]()

    def step(pictures):
        started.wait()
        sizes.append(len(pictures))
        return [
            Probabilities(np.full((2, 2), int(one.shown), np.float32), 2, 2) for one in pictures
        ]

    async def ask() -> list[float]:
        batcher = Batcher(step)
        worker = asyncio.create_task(batcher.work())
        tasks = [asyncio.create_task(batcher.predict(picture(str(n)))) for n in range(BATCH * 2)]
        await asyncio.sleep(0.05)
        started.set()
        answers = await asyncio.gather(*tasks)
        worker.cancel()
        return [float(answer.values_hw[0, 0]) for answer in answers]

    assert asyncio.run(ask()) == list(range(BATCH * 2))
    assert sizes == [BATCH, BATCH]


def test_an_error_belongs_to_its_batch() -> None:
    def step(pictures):
        if pictures[0].shown == "bad":
            raise RuntimeError("a bug")
        return [Probabilities(np.zeros((2, 2), np.float32), 2, 2)]

    async def ask() -> None:
        batcher = Batcher(step)
        worker = asyncio.create_task(batcher.work())
        with pytest.raises(RuntimeError, match="a bug"):
            await batcher.predict(picture("bad"))
        await batcher.predict(picture("good"))
        worker.cancel()

    asyncio.run(ask())


def test_whoever_has_gone_away_takes_no_time() -> None:
    seen = list[str]()

    def step(pictures):
        seen.extend(one.shown for one in pictures)
        return [Probabilities(np.zeros((2, 2), np.float32), 2, 2) for _ in pictures]

    async def ask() -> None:
        batcher = Batcher(step)
        gone = asyncio.create_task(batcher.predict(picture("gone")))
        stays = asyncio.create_task(batcher.predict(picture("stays")))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        worker = asyncio.create_task(batcher.work())
        await stays
        worker.cancel()

    asyncio.run(ask())
    assert seen == ["stays"]


def zeros(pictures: list[Picture]) -> list[Probabilities]:
    return [Probabilities(np.zeros((2, 2), np.float32), 2, 2) for _ in pictures]


async def post(app: Any, receive: Any = None) -> int:
    """Code of the answer to one image; `receive` sends its body."""
    codes = []

    async def whole() -> dict[str, Any]:
        return {"type": "http.request", "body": b"image", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            codes.append(message["status"])

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b""}
    await app({**scope, "headers": [], "http_version": "1.1"}, receive or whole, send)
    return codes[0]


async def start(app: Any) -> asyncio.Task[None]:
    """Start the worker of an application, as a server does."""
    ready, ended = asyncio.Event(), asyncio.Event()
    messages = iter([None])

    async def receive() -> dict[str, Any]:
        if next(messages, 1):
            await ended.wait()
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        ready.set()

    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, receive, send))
    await ready.wait()
    return task


def test_bodies_are_not_read_while_too_many_are_in_work() -> None:
    async def ask() -> tuple[int, int, int]:
        app, num_read, go_on = make_service(zeros, model="x"), 0, asyncio.Event()
        await start(app)

        async def slow() -> dict[str, Any]:
            nonlocal num_read
            num_read += 1
            await go_on.wait()
            return {"type": "http.request", "body": b"image", "more_body": False}

        tasks = [asyncio.create_task(post(app, slow)) for _ in range(IN_WORK)]
        await asyncio.sleep(0.05)
        refused = await post(app, slow)
        # Those that go away make room.
        tasks.pop().cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        return num_read, refused, await post(app)

    assert asyncio.run(ask()) == (IN_WORK, 503, 200)


def test_drawing_goes_on_in_few_threads_after_the_time_is_over(monkeypatch) -> None:
    """A thread cannot be interrupted; what has not begun to draw never does."""
    go_on, lock, running, most, begun = threading.Event(), threading.Lock(), 0, 0, 0

    def draw(map_HW: Any) -> bytes:
        nonlocal running, most, begun
        with lock:
            running, begun = running + 1, begun + 1
            most = max(most, running)
        go_on.wait(20)
        with lock:
            running -= 1
        return b"png"

    monkeypatch.setattr(service, "encode_png", draw)
    monkeypatch.setattr(service, "ANSWER_SEC", 0.3)
    monkeypatch.setattr(service, "num_cpus", lambda: 2)

    async def ask() -> list[int]:
        app = make_service(zeros, model="x")
        await start(app)
        codes = await asyncio.gather(*(post(app) for _ in range(20)))
        # Their images are still in memory.
        more = await asyncio.gather(*(post(app) for _ in range(IN_WORK - 20 + 1)))
        go_on.set()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if running == 0:
                break
        return [*codes, *more, await post(app)]

    began = time.perf_counter()
    codes = asyncio.run(ask())
    assert codes[:-1] == [503] * (IN_WORK + 1)
    assert codes[-1] == 200
    assert (most, begun) == (2, 3)
    assert time.perf_counter() - began < 15
