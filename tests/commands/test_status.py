"""`a2s status` on real folders: during and after a job, damaged, and by URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from forkserver import Process
from PIL import Image
from processes import environment, pack
from status_folders import ask, write_shard, write_three_of_four, write_training

from a2s.commands import shard, status
from a2s.config.checks import StatusConfig
from a2s.config.commands import ShardConfig
from a2s.config.run import RunConfig
from a2s.errors import ConfigError
from a2s.pipeline import job_list


def photos(folder: Path, count: int, *, side: int = 24) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (side, side), (number % 256, 10, 10)).save(folder / f"{number:03d}.jpg")
    return folder


@pytest.fixture
def three_of_four(tmp_path: Path) -> Path:
    """Label shards in a folder whose name contains glob characters."""
    return write_three_of_four(tmp_path / "labels [x]*")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_some_of_the_shards(three_of_four: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(three_of_four)
    found = ask(three_of_four, capsys)
    assert found["command"] == "label"
    assert (found["state"], found["shards_done"], found["num_shards"]) == ("running", 3, 4)
    assert (found["images_done"], found["num_images"]) == (18, 24)
    assert not found["num_images_is_exact"]
    assert found["recent_rate_images_per_sec"] == pytest.approx(0.1, rel=1e-3)
    assert found["left_sec"] == pytest.approx(50, abs=2)
    assert found["num_empty"] == 3
    [reason] = found["failures"]
    assert reason["reason"] == "truncated"
    assert reason["keys"] == ["0/bad", "1/bad", "2/bad"]
    assert reason["share"] == pytest.approx(3 / 18, abs=1e-6)
    assert found["problems"] == []
    assert snapshot(three_of_four) == before


def test_stalled_then_finished(three_of_four: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in three_of_four.glob("*.json"):
        written_sec = path.stat().st_mtime - 1000
        os.utime(path, (written_sec, written_sec))
    assert status.run(StatusConfig(out=str(three_of_four))) == 0
    assert "a2s label, stalled since 20" in capsys.readouterr().out
    write_shard(three_of_four, 3)
    assert ask(three_of_four, capsys)["state"] == "finished"


def test_damaged_foreign_and_incomplete_shards_are_problems_not_tracebacks(
    three_of_four: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three_of_four / "shard-000000.json").write_bytes(b'{"count": 5, "na')
    (three_of_four / "shard-000001.tar").write_bytes(b"short")
    write_shard(three_of_four, 3)
    write_shard(three_of_four, 4)
    write_shard(three_of_four, 5, settings="b")
    found = ask(three_of_four, capsys)
    assert found["shards_done"] == 3
    damaged, others, torn = found["problems"]
    assert damaged == "1 manifest damaged: shard-000000.json"
    assert others == "1 manifest made with other settings, not counted: shard-000005.json"
    assert torn.startswith("1 manifest without the tar or table of their size")
    assert "shard-000001.json" in torn


def test_manifests_alone_are_enough(
    three_of_four: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [*three_of_four.glob("*.tar"), *three_of_four.glob("*.parquet")]:
        path.unlink()
    assert ask(three_of_four, capsys)["shards_done"] == 3


def test_empty_and_just_started_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(tmp_path, capsys)["state"] == "empty"
    (tmp_path / ".lock").touch()
    assert ask(tmp_path, capsys)["state"] == "empty"
    record = {"command": "label", "inputs": {}}
    (tmp_path / "config.yaml").write_text(json.dumps({"label": {}, "identity": record}))
    (tmp_path / "environment.json").write_text("{}")
    found = ask(tmp_path, capsys)
    assert (found["command"], found["state"]) == ("label", "started")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nowhere", "no such folder"),
        ("foreign", r"nothing that a2s has written.*config\.yaml"),
        ("file.txt", "is a file"),
    ],
)
def test_a_folder_without_files_of_a2s_is_an_error(
    tmp_path: Path, name: str, complaint: str
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.json").write_text("{}")
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(ConfigError, match=complaint):
        status.run(StatusConfig(out=str(tmp_path / name)))


def test_damaged_configuration_is_a_problem(
    three_of_four: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (three_of_four / "config.yaml").write_bytes(b"\xff{: [")
    found = ask(three_of_four, capsys)
    assert found["shards_done"] == 3
    assert found["problems"] == ["config.yaml is damaged, or not written by a2s"]


def test_data_shards_with_failures_before_and_in_the_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = photos(tmp_path / "in", 10)
    (source / "003.jpg").write_bytes(b"\xff\xd8\xff")
    (source / "004.png").write_bytes((source / "004.jpg").read_bytes())
    out = tmp_path / "data"
    settings = {"images": (str(source),), "workers": 0, "max_failure_rate": 1.0}
    shard.run(ShardConfig(out=out, shard_size=4, **settings))
    found = ask(out, capsys)
    assert (found["command"], found["state"]) == ("shard", "finished")
    assert (found["images_done"], found["num_images"]) == (11, 11)
    assert found["num_images_is_exact"]
    assert found["num_failed"] == len((out / "failures.jsonl").read_text().splitlines()) == 2
    assert found["problems"] == []
    (out / "work.json").unlink()
    assert ask(out, capsys)["num_failed"] == 2


def test_while_a_real_job_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = photos(tmp_path / "in", 40, side=100)
    out = tmp_path / "data"
    arguments = ["shard", str(source), "--out", str(out), "--workers", "0", "--shard-size", "4"]
    process = Process(arguments, env=environment(), hold_at="shard-000003.json")
    seen: list[int] = []
    try:
        process.wait_until_held()
        found = ask(out, capsys)
        assert (found["state"], found["problems"], found["shards_done"]) == ("running", [], 4)
        process.release()
        while process.poll() is None:
            found = ask(out, capsys)
            assert found["problems"] == []
            seen.append(found["shards_done"])
        assert process.wait(60) == 0, process.communicate()
    finally:
        process.kill()
    assert seen == sorted(seen)
    found = ask(out, capsys)
    assert (found["state"], found["images_done"], found["left_sec"]) == ("finished", 40, None)
    assert found["rate_images_per_sec"] > 0


def test_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path / "s1")
    found = ask(tmp_path / "s1", capsys)
    assert (found["command"], found["commit"], found["share"]) == ("stage1", 2, 0.5)
    assert found["recent_rate_images_per_sec"] == pytest.approx(8.0, rel=0.01)
    (tmp_path / "s1" / "commits" / "00002.json").write_bytes(b"{")
    found = ask(tmp_path / "s1", capsys)
    assert (found["commit"], found["problems"]) == (1, ["commits/00002.json is damaged"])


def test_stage2_is_finished_with_its_rectified_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_training(tmp_path / "s2", command="stage2", finished=True)
    rectified = tmp_path / "s2" / "rectified"
    rectified.mkdir()
    write_shard(rectified, 0, num_shards=2)
    found = ask(tmp_path / "s2", capsys)
    assert found["state"] == "running"
    assert "1 of 2 shards" in found["problems"][0]
    write_shard(rectified, 1, num_shards=2)
    assert ask(tmp_path / "s2", capsys)["state"] == "finished"


@pytest.mark.parametrize("truth", [None, "truth"])
@pytest.mark.parametrize("test", [None, "test"])
@pytest.mark.parametrize(
    ("init", "seeds"), [(None, None), ("none", None), ("none", "none"), (None, "rbd")]
)
def test_steps_of_a_run_are_those_of_its_job_list(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    test: str | None,
    truth: str | None,
    init: Any,
    seeds: Any,
) -> None:
    out = tmp_path / "run"
    config = RunConfig(images=("photos",), out=out, test=test, truth=truth, init=init, seeds=seeds)
    jobs = [(job.out.relative_to(out).as_posix(), job.command) for job in job_list(config)]
    out.mkdir()
    record = {"run": config.model_dump(mode="json"), "identity": {"command": "run"}}
    (out / "config.yaml").write_text(json.dumps(record))
    found = ask(out, capsys)
    assert [(step["folder"], step["command"]) for step in found["steps"]] == jobs
    assert found["state"] == "started"


def test_run_with_some_steps_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    pack(photos(tmp_path / "in", 5), out / "data")
    write_training(out / "stage1")
    settings = {"test": None, "truth": None, "seeds": "none", "init": "none"}
    record = {"run": settings, "identity": {"command": "run"}}
    (out / "config.yaml").write_text(json.dumps(record))
    stop = {"time_unix_sec": time.time(), "job": "stage1", "exit_code": 2}
    (out / "metrics.jsonl").write_text(json.dumps(stop) + "\n")
    found = ask(out, capsys)
    states = [step["status"] and step["status"]["state"] for step in found["steps"]]
    assert states == ["finished", "running", None, None, None]
    assert (found["state"], found["steps_done"]) == ("stopped", 1)
    why = "after stage1 (exit code 2); the same command continues with it"
    assert found["stopped"]["why"] == why
    assert status.run(StatusConfig(out=str(out))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "a2s run, stopped, 1 of 5 steps done; at 20" in lines[0]
    assert lines[0].endswith(f" UTC: {why}")
    assert lines[1].split() == ["data", "shard", "finished", "5", "of", "5", "images", "(100.0%)"]
    assert lines[3].split() == ["labels", "label", "not", "yet"]


def test_file_url(three_of_four: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(f"file://{three_of_four}", capsys)["shards_done"] == 3


@pytest.mark.parametrize("module", ["torch", "ray", "numpy", "pyarrow"])
def test_status_stays_light(three_of_four: Path, module: str) -> None:
    code = (
        "import sys, a2s.__main__ as m\n"
        f"assert m.run(['status', {str(three_of_four)!r}]) == 0\n"
        f"sys.exit({module!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
