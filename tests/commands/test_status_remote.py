"""`a2s status` by URL: object storage, a web server, unreachable storage."""

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
from moto.server import ThreadedMotoServer
from status_folders import ask, write_shard, write_three_of_four, write_training

from a2s.commands import status
from a2s.config.checks import StatusConfig
from a2s.errors import ConfigError, DataError

REGION = "us-east-1"


@pytest.fixture
def three_of_four(tmp_path: Path) -> Path:
    """Label shards in a folder whose name contains glob characters."""
    return write_three_of_four(tmp_path / "labels [x]*")


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A local S3 service, and a client for it."""
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
    record = {"run": {"init": "none", "seeds": "none"}, "identity": {"command": "run"}}
    (tmp_path / "config.yaml").write_text(json.dumps(record))
    upload(s3, tmp_path, "runs/mine")
    found = ask("s3://bucket/runs/mine", capsys)
    assert found["steps_done"] == 1
    assert found["steps"][1]["status"]["commit"] == 4


@pytest.mark.parametrize("url", ["s3://bucket/nothing/here", "s3://no-such-bucket/x"])
def test_empty_prefix_in_object_storage(url: str, s3: Any) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        status.run(StatusConfig(out=url))


@pytest.mark.slow
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


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "simplecache::s3://bucket/x"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(DataError, match=r"allowed|refused"):
        status.run(StatusConfig(out=url))
