"""Time of a row from logs of complete, interrupted, killed and repeated runs."""

import pytest

from a2s.paper.tables.hours import training_sec, wall_sec


def begins(time, *, out="rows/a/stage1", key="k-1"):
    return {"time_unix_sec": time, "event": "begins", "job": "stage1", "out": out, "key": key}


def ends(time, elapsed, *, code=0, out="rows/a/stage1", key="k-1"):
    values = {"exit_code": code, "elapsed_sec": elapsed}
    return {"time_unix_sec": time, "job": "stage1", "out": out, "key": key, **values}


def test_no_job_has_started():
    assert wall_sec([begins(0, out="rows/b/stage1")], "rows/a/stage1") is None


def test_complete_run():
    assert wall_sec([begins(10), ends(15, 5.0)], "rows/a/stage1") == 5


def test_interrupted_and_failed_attempts_count_repeats_of_finished_jobs_do_not():
    records = [
        *(begins(0), ends(7, 7.0, code=None)),
        *(begins(100), ends(103, 3.0, code=3)),
        *(begins(200), ends(205, 5.0)),
        *(begins(300), ends(300.4, 0.4)),
    ]
    assert wall_sec(records, "rows/a/stage1") == 15


def test_killed_attempt_lasts_until_its_last_log_line():
    records = [begins(100), begins(500), ends(510, 10.0)]
    alive = [90.0, 110.0, 160.0, 505.0]
    assert wall_sec(records, "rows/a/stage1", alive_sec=alive) == 60 + 10


def test_last_attempt_may_still_run():
    assert wall_sec([begins(100)], "rows/a/stage1", alive_sec=[130.0]) == 30


def test_alternating_jobs_of_a_folder_add_up():
    records = [
        record
        for number, key in enumerate(["stage2-1", "hma-1", "stage2-2", "hma-2"])
        for record in (begins(10 * number, key=key), ends(10 * number + 4, 4.0, key=key))
    ]
    assert wall_sec(records, "rows/a/stage1") == 16
    assert wall_sec(records * 2, "rows/a/stage1") == 16


def step(epoch, number, rate):
    return {"epoch": epoch, "step": number, "images_per_sec": rate}


def test_repeated_steps_of_a_run_count_once():
    once = [step(1, 20, 4.0), step(1, 25, 2.0), step(2, 20, 4.0), step(2, 25, 2.0)]
    seconds = 2 * (20 * 8 / 4 + 5 * 8 / 2)
    assert training_sec(once, batch_size=8) == pytest.approx(seconds)
    # Killed in epoch 2 after step 20, then resumed from the commit of epoch 1.
    twice = [*once[:3], {"event": "paused", "epoch": 1}, *once[2:]]
    assert training_sec(twice, batch_size=8) == pytest.approx(seconds)
