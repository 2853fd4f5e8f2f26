"""The batcher of `a2s serve`: who waits, who is told to come again, what an error costs."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from a2s.data.open_files import Held
from a2s.evaluation.service import BATCH, WAITING, Batcher
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
