"""What the page reads from logs, also from those of resumed and damaged runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a2s.evaluation.page import logs


def write(path: Path, *lines: object) -> None:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts))


def test_later_lines_of_a_resumed_run_count_and_damaged_ones_are_counted(tmp_path: Path) -> None:
    write(
        tmp_path / "metrics.jsonl",
        {"epoch": 1, "step": 10, "loss": 4.0, "label_flip_share": 0.0},
        {"epoch": 1, "step": 20, "loss": 9.0, "label_flip_share": 0.5},
        "{torn",
        {"epoch": 1, "step": 20, "loss": 3.0, "label_flip_share": 0.2},
        {"epoch": 2, "step": 20, "loss": 1.0, "label_flip_share": 0.3},
        {"epoch": 2},
        {"event": "heads", "agreement": {"1 and 0": 0.6, "2 and 1": 0.9}, "kept": [0, 1, 2]},
    )
    log = logs.training_log(tmp_path)
    assert log.epochs == [0.5, 1.0, 2.0]
    assert log.losses == {"loss": [4.0, 3.0, 1.0]}
    assert log.flips_by_epoch == {1: pytest.approx(0.1), 2: pytest.approx(0.3)}
    assert log.agreement == {(1, 0): 0.6, (2, 1): 0.9}
    assert log.damaged == 2


def test_a_long_log_becomes_few_points_with_the_same_mean(tmp_path: Path) -> None:
    losses = [float(step % 7) for step in range(1, 4001)]
    lines = [{"epoch": 1, "step": n, "loss": loss} for n, loss in enumerate(losses, start=1)]
    write(tmp_path / "metrics.jsonl", *lines)
    found = logs.training_log(tmp_path).losses["loss"]
    assert len(found) == logs.POINTS
    assert sum(found) / len(found) == pytest.approx(sum(losses) / len(losses))


def test_a_run_that_has_not_logged_yet_has_no_points(tmp_path: Path) -> None:
    assert logs.training_log(tmp_path).epochs == []


def test_left_out_images_are_counted_by_reason(tmp_path: Path) -> None:
    lines = [{"key": f"k{n}", "path": f"p{n}", "reason": "truncated"} for n in range(8)]
    write(tmp_path / "failures.jsonl", *lines, {"key": "x", "reason": "pixel_bomb"}, "torn")
    write(tmp_path / "left_out.jsonl", {"key": "y", "quality": 0.2})
    failures, poor = logs.left_out(tmp_path)
    assert failures.total == 9
    assert failures.reasons == {"truncated": 8, "pixel_bomb": 1}
    assert [path for path, _ in failures.examples] == ["p0", "p1", "p2", "p3", "p4"]
    assert failures.damaged == 1
    assert poor.reasons == {"not good enough": 1}
    assert poor.examples == [("y", "0.2")]


def test_the_time_of_a_step_is_that_of_all_its_calls(tmp_path: Path) -> None:
    step = {"job": "stage1", "out": "o/stage1"}
    write(
        tmp_path / "metrics.jsonl",
        {"event": "begins", **step},
        {**step, "elapsed_sec": 5.0, "exit_code": None},
        {**step, "elapsed_sec": 2.5, "exit_code": 0},
        {"job": "evaluate", "out": "o/scores/maps", "elapsed_sec": 1.0, "exit_code": 0},
        {"event": "judged", "lines": ["verdict: old"]},
        {"event": "judged", "lines": ["verdict: new", "warning: few"]},
    )
    assert logs.step_times(tmp_path) == [
        ("stage1", "stage1", 7.5, 0),
        ("evaluate", "scores/maps", 1.0, 0),
    ]
    assert logs.judged(tmp_path) == ["verdict: new", "warning: few"]


def test_the_command_can_be_pasted() -> None:
    recorded = {"argv": ["/x/__main__.py", "run", "my photos", "--out", "$HOME"]}
    assert logs.command_line(recorded) == "a2s run 'my photos' --out '$HOME'"
    assert logs.command_line({}) == ""
