"""Commands that write into a store: killed, paused, two at once, and on several ranks."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from forkserver import Process
from object_store import Bucket
from processes import call, environment, pack, run_ranks

if TYPE_CHECKING:
    from conftest import SceneFolders

LABELS = "s3://bucket/labels"
LABEL = ["label", "--model", "rbd", "--workers", "0", "--data", "s3://bucket/data", "--out", LABELS]


@pytest.fixture
def data(scenes: SceneFolders, tmp_path: Path, bucket: Bucket) -> Path:
    """Data shards here, and the same in the store."""
    folder = pack(scenes.train, tmp_path / "data")
    bucket.upload(folder, "data")
    return folder


def start(arguments: list[str], cache: Path, *, hold_at: str = "") -> Process:
    """Start a command on a machine with this cache; `hold_at` is that of `Process`."""
    return Process(arguments, env=environment(A2S_CACHE=str(cache)), hold_at=hold_at)


def start_and_hold(arguments: list[str], cache: Path) -> Process:
    """Start a command, and hold it when it has written its first tar, here and not in the store."""
    process = start(arguments, cache, hold_at="labels/shard-000000.tar")
    process.wait_until_held()
    return process


def _kill_at(process: Process, left: list[int], method: str, path: str) -> None:
    """Kill a process at one of its writes of shards."""
    if method == "PUT" and "/labels/shard-" in path:
        left[0] -= 1
        if left[0] == 0:
            process.send_signal(signal.SIGKILL)


def shards(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name.startswith("shard-")}


def check_whole(files: dict[str, bytes]) -> None:
    """Every manifest has the files that it describes."""
    for name, data in files.items():
        if name.startswith("shard-") and name.endswith(".json"):
            manifest = json.loads(data)
            for suffix in ("tar", "parquet"):
                content = files[f"{manifest['name']}.{suffix}"]
                assert hashlib.sha256(content).hexdigest() == manifest[f"{suffix}_sha256"]


@pytest.mark.slow
def test_killed_while_it_publishes_and_repeated_on_fresh_machines(
    data: Path, bucket: Bucket, tmp_path: Path
) -> None:
    codes = []
    for number, num_puts in enumerate((1, 4, 2)):
        process = start(LABEL, tmp_path / f"cache-{number}")
        bucket.proxy.before = functools.partial(_kill_at, process, [num_puts])
        codes.append(process.wait(timeout=200))
        bucket.proxy.before = None
        check_whole(bucket.files("labels"))
    # Writes that were under way when a process was killed may arrive, and leave the last one none.
    assert codes in ([-signal.SIGKILL] * 3, [-signal.SIGKILL] * 2 + [0])
    done = call(*LABEL)
    assert done.code == 0, done.stderr
    here = tmp_path / "here"
    assert call(*LABEL[:5], "--data", data, "--out", here).code == 0
    expected = {path.name: path.read_bytes() for path in here.iterdir()}
    assert shards(bucket.files("labels")) == shards(expected)


def test_of_two_writers_one_is_refused(data: Path, bucket: Bucket, tmp_path: Path) -> None:
    first = start_and_hold(LABEL, tmp_path / "one")
    second = start(LABEL, tmp_path / "two")
    assert second.wait(timeout=120) == 2
    _, complaint = second.communicate()
    assert f"{LABELS} is in use by a2s label, pid {first.pid} on" in complaint
    assert len(complaint.splitlines()) == 1
    first.release(for_good=True)
    assert first.wait(timeout=120) == 0


def test_a_writer_that_was_taken_over_writes_no_more(
    data: Path, bucket: Bucket, tmp_path: Path
) -> None:
    first = start_and_hold(LABEL, tmp_path / "one")
    first.send_signal(signal.SIGSTOP)
    assert call(*LABEL).code == 2
    # A process: the flag is an environment variable, so that ranks and workers have it too.
    second = start([*LABEL, "--takeover"], tmp_path / "two")
    assert second.wait(timeout=120) == 0, second.communicate()
    assert "taking s3://bucket/labels over from a2s label" in second.communicate()[1]
    after = bucket.files("labels")
    first.release(for_good=True)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=120) == 2
    assert bucket.files("labels") == after
    # Its next write is refused, or it sees first that the lock is another's.
    assert re.search("somebody else has written it|was taken over by", first.communicate()[1])


def test_machines_label_shards_of_one_folder(data: Path, bucket: Bucket, tmp_path: Path) -> None:
    first = start_and_hold([*LABEL, "--shards", "0"], tmp_path / "one")
    done = call(*LABEL, "--shards", "1-2")
    assert done.code == 0, done.stderr
    assert "next: the other 1 shards" in done.stdout
    for others in (["--shards", "0,2"], []):
        refused = call(*LABEL, *others)
        assert refused.code == 2
        assert f"in use by a2s label, pid {first.pid}" in refused.stderr
    first.release(for_good=True)
    assert first.wait(timeout=200) == 0, first.communicate()
    assert "holds 8 labels in 3 shards" in call(*LABEL).stdout
    here = tmp_path / "here"
    assert call(*LABEL[:5], "--data", data, "--out", here).code == 0
    expected = {path.name: path.read_bytes() for path in here.iterdir()}
    assert shards(bucket.files("labels")) == shards(expected)


@pytest.mark.slow
def test_ranks_share_a_working_folder(data: Path, bucket: Bucket, tmp_path: Path) -> None:
    assert call(*LABEL).code == 0
    train = ["stage2", "--data", "s3://bucket/data", "--labels", LABELS, "--out", "s3://bucket/s2"]
    train += ["--image-size", "64", "--batch-size", "4", "--encoder.name", "mobilenet_v2"]
    train += ["--epochs", "2", "--warm-epochs", "1", "--loader-workers", "0"]
    variables = [{"A2S_CACHE": str(tmp_path / "one")}] * 2
    done = run_ranks([*train, "--until-epoch", "1"], world=2, variables=variables)
    assert [rank.code for rank in done] == [0, 0], done
    assert "commits/00001.json" in bucket.files("s2")
    variables = [{"A2S_CACHE": str(tmp_path / "two")}] * 2
    done = run_ranks(train, world=2, variables=variables)
    assert [rank.code for rank in done] == [0, 0], done
    done = call("verify", "s3://bucket/s2")
    assert done.code == 0, done.stdout
    assert "3 shards and 2 commits" in done.stdout
    assert "finished" in call("status", "s3://bucket/s2").stdout
