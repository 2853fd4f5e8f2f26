"""Output folders in various states for the tests of `a2s status`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from a2s.commands import status
from a2s.config.checks import StatusConfig
from a2s.data.shards import ShardWriter


def ask(out: object, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the JSON status of a folder, and check that the text can be printed."""
    capsys.readouterr()
    assert status.run(StatusConfig(out=str(out))) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{out}: ")
    assert status.run(StatusConfig(out=str(out), as_json=True)) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def write_shard(folder: Path, number: int, *, num_shards: int = 4, settings: str = "a") -> None:
    with ShardWriter(
        folder, f"shard-{number:06d}", settings=settings, num_shards=num_shards
    ) as writer:
        for sample in range(5):
            writer.add(f"{number}/{sample}", {"png": b"png"})
        writer.extra["failures"] = [{"key": f"{number}/bad", "reason": "truncated"}]
        writer.extra["num_empty"] = 1


def write_three_of_four(folder: Path) -> Path:
    """Three of four label shards, a minute apart, the last one ten seconds ago."""
    folder.mkdir()
    for number in range(3):
        write_shard(folder, number)
        written_sec = time.time() - 130 + 60 * number
        os.utime(folder / f"shard-{number:06d}.json", (written_sec, written_sec))
    return folder


def write_training(folder: Path, *, command: str = "stage1", finished: bool = False) -> None:
    """Write the files of a run after two of four epochs (or all), without weights."""
    (folder / "commits").mkdir(parents=True)
    settings = {"epochs": 4, "batch_size": 8}
    record = {command: settings, "identity": {"command": command}}
    (folder / "config.yaml").write_text(json.dumps(record))
    epochs = 4 if finished else 2
    lines = [
        {"epoch": e, "step": s, "time_unix_sec": time.time() - 100 + 20 * e + s, "loss": 0.5}
        for e in range(1, epochs + 1)
        for s in (10, 20)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number in (epochs - 1, epochs):
        state = {"epoch": number, "step": 0, "finished": finished and number == epochs}
        text = json.dumps({"commit": number, "sha256": {}, "state": state})
        (folder / "commits" / f"{number:05d}.json").write_text(text)
