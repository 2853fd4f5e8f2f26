"""Standings read from real folders: while a job writes them, afterwards, damaged, and by URL."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import environment, pack
from moto.server import ThreadedMotoServer
from PIL import Image
from zygote import Process

from a2s.config import RunConfig, ShardConfig, StatusConfig
from a2s.data.tars import ShardWriter
from a2s.errors import ConfigError, DataError
from a2s.jobs import shard, status
from a2s.jobs.run import job_list

REGION = "us-east-1"


def ask(out: object, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The standing as programs get it, and that it can be put into words."""
    capsys.readouterr()
    assert status.run(StatusConfig(out=str(out))) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{out}: ")
    assert status.run(StatusConfig(out=str(out), as_json=True)) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def photos(folder: Path, count: int, *, side: int = 24) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (side, side), (number % 256, 10, 10)).save(folder / f"{number:03d}.jpg")
    return folder


def write_shard(folder: Path, number: int, *, num_shards: int = 4, settings: str = "a") -> None:
    with ShardWriter(
        folder, f"shard-{number:06d}", settings=settings, num_shards=num_shards
    ) as writer:
        for sample in range(5):
            writer.add(f"{number}/{sample}", {"png": b"png"})
        writer.extra["failures"] = [{"key": f"{number}/bad", "reason": "truncated"}]
        writer.extra["num_empty"] = 1


@pytest.fixture
def three_of_four(tmp_path: Path) -> Path:
    """Three of four label shards, a minute apart, the last one ten seconds ago."""
    folder = tmp_path / "labels [x]*"
    folder.mkdir()
    for number in range(3):
        write_shard(folder, number)
        written_sec = time.time() - 130 + 60 * number
        os.utime(folder / f"shard-{number:06d}.json", (written_sec, written_sec))
    return folder


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


def test_damaged_foreign_and_torn_shards_are_lines_not_tracebacks(
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
def test_what_is_no_folder_of_ours_is_an_error(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.json").write_text("{}")
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(ConfigError, match=complaint):
        status.run(StatusConfig(out=str(tmp_path / name)))


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "simplecache::s3://bucket/x"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(DataError, match=r"allowed|refused"):
        status.run(StatusConfig(out=url))


def test_damaged_configuration_is_said(
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
    source = photos(tmp_path / "in", 120, side=400)
    out = tmp_path / "data"
    arguments = ["shard", str(source), "--out", str(out), "--workers", "0", "--shard-size", "4"]
    process = Process(arguments, env=environment())
    seen: list[int] = []
    try:
        while process.poll() is None:
            if (out / "config.yaml").exists():
                found = ask(out, capsys)
                assert found["problems"] == []
                seen.append(found.get("shards_done", 0))
        assert process.wait(60) == 0, process.communicate()
    finally:
        process.kill()
    assert seen == sorted(seen)
    assert any(0 < done < 30 for done in seen), seen
    found = ask(out, capsys)
    assert (found["state"], found["images_done"], found["left_sec"]) == ("finished", 120, None)
    assert found["rate_images_per_sec"] > 0


def write_training(folder: Path, *, command: str = "stage1", finished: bool = False) -> None:
    """What two of four epochs (or all) leave, without the weights."""
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
def test_steps_of_a_run_are_those_of_its_job_list(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], test: str | None, truth: str | None
) -> None:
    out = tmp_path / "run"
    config = RunConfig(images=("photos",), out=out, test=test, truth=truth)
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
    record = {"run": {"test": None, "truth": None}, "identity": {"command": "run"}}
    (out / "config.yaml").write_text(json.dumps(record))
    stop = {"time_unix_sec": time.time(), "job": "stage1", "exit_code": 2}
    (out / "metrics.jsonl").write_text(json.dumps(stop) + "\n")
    found = ask(out, capsys)
    states = [step["standing"] and step["standing"]["state"] for step in found["steps"]]
    assert states == ["finished", "running", None, None, None]
    assert (found["state"], found["steps_done"]) == ("running", 1)
    assert found["problems"] == [
        "it stopped after stage1 (exit code 2); the same command continues with it"
    ]
    assert status.run(StatusConfig(out=str(out))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("a2s run, running, 1 of 5 steps done")
    assert lines[1].split() == ["data", "shard", "finished", "5", "of", "5", "images", "(100.0%)"]
    assert lines[3].split() == ["labels", "label", "not", "yet"]


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """An S3 service on this machine, and a client of it."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_DEFAULT_REGION", "AWS_REGION"):
            patch.setenv(name, REGION)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client
    server.stop()


def upload(client: Any, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.put_object(
                Bucket="bucket",
                Key=f"{prefix}/{path.relative_to(folder).as_posix()}",
                Body=path.read_bytes(),
            )


def test_object_storage(three_of_four: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    upload(s3, three_of_four, "labels [x]")
    found = ask("s3://bucket/labels [x]", capsys)
    assert (found["command"], found["shards_done"], found["images_done"]) == ("label", 3, 18)
    assert found["newest_sec"] == pytest.approx(time.time(), abs=60)
    assert found["problems"] == []
    write_shard(three_of_four, 3)
    upload(s3, three_of_four, "labels [x]")
    assert ask("s3://bucket/labels [x]/", capsys)["state"] == "finished"


def test_run_in_object_storage(tmp_path: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_training(tmp_path / "stage1", finished=True)
    record = {"run": {}, "identity": {"command": "run"}}
    (tmp_path / "config.yaml").write_text(json.dumps(record))
    upload(s3, tmp_path, "runs/mine")
    found = ask("s3://bucket/runs/mine", capsys)
    assert found["steps_done"] == 1
    assert found["steps"][1]["standing"]["commit"] == 4


@pytest.mark.parametrize("url", ["s3://bucket/nothing/here", "s3://no-such-bucket/x"])
def test_nothing_in_object_storage(url: str, s3: Any) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        status.run(StatusConfig(out=url))


def test_unreachable_storage_is_one_line(free_port: int, tmp_path: Path) -> None:
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_DEFAULT_REGION": REGION,
    }
    done = subprocess.run(
        [sys.executable, "-m", "a2s", "status", "s3://bucket/x"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **variables},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("a2s: s3://bucket/x: cannot be listed (")
    assert len(done.stderr.splitlines()) == 1


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_web_server_that_lists_folders(
    three_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(three_of_four, tmp_path / "labels")
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            found = ask(f"http://127.0.0.1:{server.server_port}/labels/", capsys)
        finally:
            server.shutdown()
    assert (found["command"], found["shards_done"], found["num_failed"]) == ("label", 3, 3)
    assert found["rate_images_per_sec"] is None


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
