"""Pool with real Ray workers: retries, timeouts, errors, back-pressure, clean shutdown."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from repository import REPO

from a2s.data.images import BadImage
from a2s.errors import A2SError, DataError
from a2s.parallel import model_actors, pool, tasks


@pytest.fixture(scope="module")
def ray_session_of_two() -> Iterator[None]:
    """One Ray session with two workers for all tests of this file, because starting Ray is slow."""
    with pool.session(workers=2):
        yield


def first_time(marker: Path) -> bool:
    """Whether this is the first call with this marker in any process."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def scale(item: int, factor: int) -> int:
    return item * factor


def refuse(item: int) -> int:
    raise BadImage("truncated", f"image {item}")


def stumble(item: int) -> int:
    raise ZeroDivisionError(f"item {item}")


def killed_once(item: int, folder: Path) -> int:
    if item == 3 and first_time(folder / "killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def always_killed(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


def sleeps_once(item: int, folder: Path) -> int:
    if item == 1 and first_time(folder / "slept"):
        time.sleep(600)
    return item


def always_sleeps(item: int) -> int:
    time.sleep(60)
    return item


def first_waits(item: int, folder: Path) -> int:
    if item == 0:
        while len(list(folder.iterdir())) < 3:
            time.sleep(0.01)
    else:
        (folder / str(item)).touch()
    return item


class Clock:
    """Time that runs fast from when it shall until a task has timed out."""

    def __init__(self, tally: tasks.Tally) -> None:
        self.tally = tally
        self.is_fast = False
        self.ahead_sec = 0.0

    def monotonic(self) -> float:
        if self.is_fast and not self.tally.timed_out:
            self.ahead_sec += 600
        return time.monotonic() + self.ahead_sec


def add_prepared(item: int, prepared: np.ndarray, offset: int) -> tuple[int, int, bool]:
    return int(prepared.sum()) + offset, os.getpid(), prepared.flags.writeable


class Doubler:
    """A fake model that records its process id and may die once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, item: int) -> np.ndarray:
        if item == 2 and first_time(self.folder / "model-killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / f"model-{os.getpid()}").touch()
        return np.full(50_000, 2 * item)


class BuildDoubler:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Doubler:
        return Doubler(self.folder)


def build_broken() -> None:
    raise DataError("no such model")


@pytest.mark.parametrize("workers", [0, 2])
def test_maps_every_item_once_with_common_arguments(ray_session_of_two: None, workers: int) -> None:
    results = pool.map_items(scale, range(20), workers=workers, common=(10,))
    assert sorted(results) == [10 * item for item in range(20)]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_the_function_are_raised_unchanged(
    ray_session_of_two: None, workers: int
) -> None:
    with pytest.raises(BadImage, match="image 7") as caught:
        list(pool.map_items(refuse, [7], workers=workers))
    assert caught.value.reason == "truncated"
    with pytest.raises(ZeroDivisionError, match="item 5"):
        list(pool.map_items(stumble, [5], workers=workers))


def test_results_arrive_in_order_of_completion(ray_session_of_two: None, tmp_path: Path) -> None:
    results = list(pool.map_items(first_waits, range(4), workers=2, common=(tmp_path,)))
    assert sorted(results) == [0, 1, 2, 3]
    # The result of the last of the others may be on its way.
    assert results.index(0) >= 2


def test_a_killed_worker_is_retried_and_counted(ray_session_of_two: None, tmp_path: Path) -> None:
    tally, notes = tasks.Tally(), list[str]()
    results = pool.map_items(
        killed_once, range(6), workers=2, common=(tmp_path,), tally=tally, note=notes.append
    )
    assert sorted(results) == list(range(6))
    assert tally.crashed == 1
    assert len(notes) == 1
    assert notes[0].startswith("3: its worker process died")


def test_a_worker_that_always_dies_ends_in_an_error_naming_the_item(
    ray_session_of_two: None,
) -> None:
    results = pool.map_items(always_killed, [41], workers=2, retries=1, name="shard {}".format)
    with pytest.raises(A2SError, match=r"shard 41: its worker process died \(given up after 2"):
        list(results)


def test_a_task_that_times_out_is_retried_once(
    ray_session_of_two: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tally = tasks.Tally()
    clock = Clock(tally)
    monkeypatch.setattr(tasks, "time", clock)
    monkeypatch.setattr(tasks, "MIN_DURATIONS", 99)
    results = pool.map_items(
        sleeps_once, range(4), workers=2, common=(tmp_path,), deadline_sec=3000, tally=tally
    )
    assert sorted(next(results) for _ in range(3)) == [0, 2, 3]
    while not (tmp_path / "slept").exists():
        time.sleep(0.01)
    clock.is_fast = True
    assert list(results) == [1]
    assert tally.timed_out == 1


def test_a_second_timeout_is_an_error_naming_the_item(ray_session_of_two: None) -> None:
    with pytest.raises(A2SError, match="17: not done after 1 s"):
        list(pool.map_items(always_sleeps, [17], workers=2, deadline_sec=1))


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_drawn_lazily(ray_session_of_two: None, workers: int) -> None:
    taken, tally = 0, tasks.Tally()

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = pool.map_items(scale, endless(), workers=workers, common=(1,), tally=tally)
    for num_results in range(1, 30):
        next(results)
        assert taken <= num_results + 2 * workers
    results.close()
    assert tally.max_in_flight <= 2 * workers


@pytest.mark.parametrize("workers", [0, 2])
def test_the_model_stage_runs_once_per_item_in_an_actor(
    ray_session_of_two: None, tmp_path: Path, workers: int
) -> None:
    if workers == 0:
        first_time(tmp_path / "model-killed")  # else it would kill this process
    results = list(
        pool.map_items(
            add_prepared,
            range(6),
            workers=workers,
            common=(1,),
            model_stage=model_actors.ModelStage(BuildDoubler(tmp_path)),
        )
    )
    assert sorted(total for total, _, _ in results) == [100_000 * item + 1 for item in range(6)]
    model_pids = {int(path.name[6:]) for path in tmp_path.glob("model-[0-9]*")}
    task_pids = {pid for _, pid, _ in results}
    if workers == 0:
        assert model_pids == task_pids == {os.getpid()}
    else:
        assert model_pids.isdisjoint(task_pids)
        # Arrays in the object store are read-only: writers must copy.
        assert not any(writeable for _, _, writeable in results)


def test_an_error_while_building_the_model_is_raised_unchanged(ray_session_of_two: None) -> None:
    results = pool.map_items(
        add_prepared, [1], workers=2, model_stage=model_actors.ModelStage(build_broken)
    )
    with pytest.raises(DataError, match="no such model"):
        list(results)


def test_sigterm_exits_143_leaves_no_process_and_a_private_token(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "def stop(number, frame): raise SystemExit(128 + number)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "from a2s.parallel import pool\n"
        "for _ in pool.map_items(time.sleep, [0, 60, 60], workers=2):\n"
        "    Path(sys.argv[1]).touch()\n"
    )
    mark = f"A2S_TEST_MARK={tmp_path}"
    name, value = mark.split("=", 1)
    env = {**os.environ, name: value, "HOME": str(tmp_path), "PYTHONPATH": str(REPO)}
    running = tmp_path / "running"
    driver = subprocess.Popen([sys.executable, str(script), str(running)], env=env)
    try:
        wait_until(running.exists, seconds=300)
        assert len(marked(mark)) > 3, "the driver, Ray's servers, and its workers"
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(120) == 143
        wait_until(lambda: not marked(mark), seconds=120)
    finally:
        driver.kill()
        driver.wait()
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def marked(mark: str) -> list[int]:
    """Processes whose environment contains `mark`, except zombies."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
        except OSError:
            continue
        if mark.encode() in environ.split(b"\0"):
            found.append(int(folder.name))
    return found


def wait_until(condition: Callable[[], object], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"condition not met after {seconds} s"
        time.sleep(0.1)
