"""Training into a store on two machines: a cache each, and a rank each."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fault_proxy import Fault
from label_shards import MISSING, write_labels
from object_store import Bucket
from processes import Finished, call, pack, run_ranks, start_ranks

from a2s.data.index import Index

if TYPE_CHECKING:
    from conftest import SceneFolders

OUT = "s3://bucket/s2"
STAGE2 = (
    "--encoder.name mobilenet_v2 --image-size 32 --batch-size 2 --epochs 3 --warm-epochs 1 "
    "--loader-workers 1 --log-every 1"
)
STAGE1 = "--encoder.name mobilenet_v2 --image-size 32 --batch-size 2 --epochs 2"


@pytest.fixture
def data(scenes: SceneFolders, tmp_path: Path, bucket: Bucket) -> Path:
    """Data and label shards here, and the same in the store."""
    folder = pack(scenes.train, tmp_path / "data")
    write_labels(folder, tmp_path / "labels", odd={0: MISSING, 7: MISSING})
    bucket.upload(folder, "data")
    bucket.upload(tmp_path / "labels", "labels")
    return folder


def machines(tmp_path: Path, *names: str) -> list[dict[str, str]]:
    """Variables of ranks that are alone on a machine with a cache of this name."""
    return [
        {"A2S_CACHE": str(tmp_path / name), "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        for name in names
    ]


def stage2(data: str | Path, labels: str | Path, out: str | Path, *more: str) -> list[str]:
    places = ["--data", str(data), "--labels", str(labels), "--out", str(out)]
    return ["stage2", *places, *STAGE2.split(), *more]


IN_STORE = stage2("s3://bucket/data", "s3://bucket/labels", OUT, "--commit-every", "1")


def result(found: dict[str, bytes]) -> dict[str, bytes]:
    """Weights and momentum of the last commit, and rectified labels."""
    last = max(name.split("/")[1] for name in found if name.startswith("checkpoints/"))
    chosen = {name: data for name, data in found.items() if name.startswith("rectified/")}
    for name in ("model.safetensors", "optimizer.safetensors"):
        chosen[name] = found[f"checkpoints/{last}/{name}"]
    return chosen


def left_out(listed: bytes) -> list[str]:
    return [json.loads(line)["key"] for line in listed.splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def all_well(done: list[Finished]) -> None:
    assert [rank.code for rank in done] == [0] * len(done), done


@pytest.mark.slow
def test_stage_2_on_two_machines_gives_what_one_gives(
    data: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """Also after one machine was lost in mid-epoch, and on other machines in another order."""
    here = tmp_path / "s2"
    all_well(run_ranks(stage2(data, tmp_path / "labels", here), world=2))
    wanted = result(files_of(here))
    assert len([name for name in wanted if name.startswith("rectified/")]) == 9

    second: list[Callable[[], None]] = []

    def lose(method: str, path: str) -> None:
        """Rank 1's machine ends when it has put labels of the first step of the last epoch."""
        if method == "PUT" and "/labels/00002/s00000001-r0001" in path and second:
            second.pop()()

    processes = start_ranks(IN_STORE, world=2, variables=machines(tmp_path, "one", "two"))
    second.append(lambda: processes[1].send_signal(signal.SIGKILL))
    bucket.proxy.before = lose
    _, complaint = processes[0].communicate(timeout=300)
    assert processes[1].wait(timeout=60) == -signal.SIGKILL
    assert processes[0].returncode == 2
    assert "rank 1" in complaint
    assert "the same command resumes" in complaint
    bucket.proxy.before = None
    assert not any(name.startswith("rectified/") for name in bucket.files("s2"))

    all_well(run_ranks(IN_STORE, world=2, variables=machines(tmp_path, "two", "three")))
    assert result(bucket.files("s2")) == wanted
    # Each rank has looked for the labels of a half of the images.
    keys = left_out(bucket.get("s2/unlabelled.jsonl"))
    assert keys == left_out((here / "unlabelled.jsonl").read_bytes())
    assert keys == [Index.load(data).key(row) for row in (0, 7)]
    verified = call("verify", OUT)
    assert verified.code == 0, verified.stdout
    for rank in (0, 1):
        # The rank that has written a file has it; the other one has read it.
        assert bucket.proxy.count("GET", f"-r000{rank}-00000.rows") > 0
    done = run_ranks(IN_STORE, world=2, variables=machines(tmp_path, "two", "three"))
    all_well(done)
    assert "is done (3 epochs)" in done[0].stdout


@pytest.mark.slow
def test_stage_1_on_two_machines_gives_what_one_gives(
    data: Path, bucket: Bucket, tmp_path: Path
) -> None:
    here = tmp_path / "s1"
    train = ["stage1", *STAGE1.split()]
    all_well(run_ranks([*train, "--data", str(data), "--out", str(here)], world=2))
    train += ["--data", "s3://bucket/data", "--out", "s3://bucket/s1"]
    # Two machines with one home folder, then two without.
    variables = machines(tmp_path, "one", "one")
    all_well(run_ranks([*train, "--until-epoch", "1"], world=2, variables=variables))
    all_well(run_ranks(train, world=2, variables=machines(tmp_path, "three", "two")))
    assert result(bucket.files("s1")) == result(files_of(here))


@pytest.mark.slow
def test_labels_that_cannot_be_put_end_all_ranks(
    data: Path, bucket: Bucket, tmp_path: Path
) -> None:
    bucket.proxy.faults = [Fault("403", "PUT", "-r0001-", times=99)]
    done = run_ranks(IN_STORE, world=2, variables=machines(tmp_path, "one", "two"))
    assert [rank.code for rank in done] == [2, 2], done
    (complaint,) = [line for rank in done for line in rank.stderr.splitlines() if "00001/" in line]
    assert "s3://bucket/s2/labels/00001/s00000000-r0001-00000.rows" in complaint
    bucket.proxy.faults = []
    all_well(run_ranks(IN_STORE, world=2, variables=machines(tmp_path, "one", "two")))
