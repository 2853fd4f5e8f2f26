"""Table III over run folders that somebody has damaged: they are named, and the rest is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from a2s.errors import CheckpointError
from a2s.paper.tables.table3 import find_runs
from a2s.storage import checkpoints

SETTINGS: dict[str, Any] = {
    "encoder": {"name": "mobilenet_v2", "weights": "none"},
    "image_size": 64,
    "batch_size": 4,
    "epochs": 20,
}
LOG = {"time_unix_sec": 5.0, "epoch": 1, "step": 9, "images_per_sec": 2.0}


def write_run(run: Path, **changes: object) -> Path:
    """A training run after one epoch: nine steps of four images, two images per second."""
    checkpoints.save(
        run,
        1,
        model={"a.weight": torch.zeros(3, 5), "b.running_mean": torch.zeros(7)},
        metadata={},
        optimizer={},
        state={"epoch": 1, "step": 0, "finished": False},
    )
    record = {"stage1": SETTINGS, "identity": {"command": "stage1", **SETTINGS, **changes}}
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    (run / "metrics.jsonl").write_text(json.dumps(LOG) + "\n")
    return run


def test_what_a_run_costs(tmp_path: Path) -> None:
    write_run(tmp_path / "all" / "a")
    (entry,) = find_runs(tmp_path / "all")
    assert entry["run"] == "all/a"
    assert entry["parameters_m"] == 15 / 1e6
    assert entry["hours"] == 9 * 4 / 2 / 3600
    assert (entry["epochs"], entry["image_size"]) == ("1 of 20", 64)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoder": "x"}, "encoder: "),
        ({"encoder": {"name": 3}}, "encoder.name: "),
        ({"epochs": None}, "epochs: "),
        ({"batch_size": "many"}, "batch_size: "),
    ],
)
def test_a_run_with_damaged_settings_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, object], why: str
) -> None:
    write_run(tmp_path / "all" / "a")
    write_run(tmp_path / "all" / "b", **changes)
    assert [entry["run"] for entry in find_runs(tmp_path / "all")] == ["all/a"]
    said = capsys.readouterr().err
    assert (
        f"ablate: {tmp_path / 'all' / 'b'} is left out: its settings cannot be read ({why}" in said
    )


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"identity: {command: 3}"])
def test_settings_that_are_none_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (write_run(tmp_path / "a") / "config.yaml").write_bytes(content)
    assert not list(find_runs(tmp_path))
    assert f"ablate: {tmp_path / 'a'} is left out" in capsys.readouterr().err


def test_lines_of_a_log_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    log = write_run(tmp_path / "a") / "metrics.jsonl"
    wrong = [[], 3, None, "x", {}, {**LOG, "epoch": "x"}, {**LOG, "images_per_sec": None}]
    lines = [*map(json.dumps, wrong), json.dumps(LOG), '{"time_unix_sec": 6.0, "epo']
    log.write_bytes(b"\xff\n" + "\n".join(lines).encode())
    (entry,) = find_runs(tmp_path)
    assert entry["hours"] == 9 * 4 / 2 / 3600


def test_a_damaged_model_is_one_line(tmp_path: Path) -> None:
    model = write_run(tmp_path / "a") / "checkpoints" / "00001" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        list(find_runs(tmp_path))
