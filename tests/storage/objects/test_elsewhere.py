"""Workers on another machine write into a folder of an S3 service.

A second node of Ray has a cache of its own, so it sees nothing of what is in the first one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from moving_average_run import Case, contents, pack_photographs, train_until_it_waits
from object_store import Bucket
from processes import call, pack
from repository import REPO

from a2s.errors import StorageError
from a2s.parallel import ray_session
from a2s.storage import files
from a2s.storage.objects import cache, elsewhere, lease, urls
from a2s.storage.objects.elsewhere import Job
from a2s.storage.objects.retries import Conflict

if TYPE_CHECKING:
    from conftest import SceneFolders

OUT = "s3://bucket/out"


def as_command(text: str) -> Job:
    """Hold the lock of the folder, as the command on the other machine does."""
    held = lease._acquire(f"{OUT}/{lease.NAME}", OUT, text)
    work = Path("/other/machine") / urls.MARK / "work/s3/bucket/out"
    return Job(work, held.token, held.url)


def writes(name: str, work: Path, content: str) -> str:
    files.atomic_write(work / f"{name}.tar", content)
    files.write_json(work / f"{name}.json", {"size": len(content)})
    return name


@pytest.fixture
def _returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_borrowed", set())


@pytest.mark.usefixtures("_returned")
def test_a_task_puts_what_it_has_written(bucket: Bucket) -> None:
    job = as_command("shard")
    assert elsewhere.shared(job, writes, "a/x", job.work, "one") == "a/x"
    assert bucket.get("out/a/x.tar") == b"one"
    assert json.loads(bucket.get("out/a/x.json")) == {"size": 3}
    here = urls.local_path(OUT, "work")
    assert [path for path in here.rglob("*") if path.is_file()] == []
    # The other attempt of a straggler finds it done.
    before = len(bucket.proxy.requests)
    elsewhere.shared(job, writes, "a/x", job.work, "one")
    assert "PUT" not in {request[0] for request in bucket.proxy.requests[before:]}
    # A later task reads it, though it is not on this machine.
    assert files.is_there(here / "a/x.tar")
    assert files.read_bytes(here / "a/x.tar") == b"one"
    assert not files.is_there(here / "a/y.tar")


@pytest.mark.usefixtures("_returned")
def test_a_task_of_a_command_that_has_lost_its_folder_writes_nothing(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = as_command("shard")
    monkeypatch.setenv(lease.TAKEOVER, "1")
    as_command("another shard")
    with pytest.raises(StorageError, match="does not hold it any more"):
        elsewhere.shared(job, writes, "x", job.work, "one")
    assert bucket.keys("out/x") == []


@pytest.mark.usefixtures("_returned")
def test_of_two_commands_tasks_one_wins(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    job = as_command("shard")
    store = elsewhere.store_of(OUT)
    head = store.head

    def overtaken(url: str) -> Any:
        found = head(url)
        if url.endswith("x.tar"):
            bucket.put("out/x.tar", b"somebody's")
        return found

    monkeypatch.setattr(store, "head", overtaken)
    with pytest.raises(Conflict):
        elsewhere.shared(job, writes, "x", job.work, "one")
    assert bucket.get("out/x.tar") == b"somebody's"


@pytest.fixture
def cluster(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of two nodes: the first has no CPU for tasks, the second its own cache."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", f"{REPO}:{REPO}/tests/helpers")
    ray_session.create_private_token()
    store = {"object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, **store})
    try:
        with monkeypatch.context() as there:
            there.setenv("A2S_CACHE", str(tmp_path / "other-machine"))
            made.add_node(num_cpus=1, num_gpus=0, **store)
        yield str(made.address)
    finally:
        made.shutdown()


def same(bucket: Bucket, prefix: str, folder: Path, *, suffix: str) -> bool:
    found = {name: data for name, data in bucket.files(prefix).items() if name.endswith(suffix)}
    wanted = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob(f"*{suffix}")
    }
    return bool(wanted) and found == wanted


@pytest.mark.slow
def test_commands_with_workers_on_another_machine(
    cluster: str, scenes: SceneFolders, bucket: Bucket, tmp_path: Path
) -> None:
    """`shard`, `predict` and `export` write what they write into a folder of one machine."""
    bucket.upload(scenes.images, "photos")
    joined = ["--ray-address", cluster, "--workers", "auto"]
    done = call(
        *("shard", "s3://bucket/photos", "--out", "s3://bucket/data"), *joined, "--shard-size", 3
    )
    assert done.code == 0, done.stderr
    here = pack(scenes.images, tmp_path / "data")
    assert same(bucket, "data", here, suffix=".tar")
    assert (tmp_path / "other-machine" / urls.MARK / "blobs").exists()
    masks = ["--model", "rbd", "--out"]
    done = call("predict", "s3://bucket/data", *masks, "s3://bucket/masks", *joined)
    assert done.code == 0, done.stderr
    assert "4 images" in done.stdout
    assert call("predict", here, *masks, tmp_path / "masks", "--workers", 0).code == 0
    assert same(bucket, "masks", tmp_path / "masks", suffix=".png")
    # Tasks may draw on maps that are not on their machine.
    done = call("predict", "s3://bucket/data", *masks, "s3://bucket/masks", "--overlay", *joined)
    assert done.code == 0, done.stderr
    assert len([name for name in bucket.files("masks") if name.endswith(".overlay.jpg")]) == 4
    label = [
        "label",
        "--model",
        "rbd",
        "--workers",
        0,
        "--data",
        here,
        "--out",
        tmp_path / "labels",
    ]
    assert call(*label).code == 0
    bucket.upload(tmp_path / "labels", "labels")
    export = ["export", "s3://bucket/labels", "--data", "s3://bucket/data", "--format", "voc"]
    done = call(*export, "--out", "s3://bucket/voc", *joined)
    assert done.code == 0, done.stderr
    export = ["export", tmp_path / "labels", "--data", here, "--format", "voc", "--workers", 0]
    assert call(*export, "--out", tmp_path / "voc").code == 0
    assert same(bucket, "voc", tmp_path / "voc", suffix=".png")
    assert not [name for name in bucket.files("voc") if ".parts" in name]


@pytest.mark.slow
def test_moving_averages_with_workers_on_another_machine(
    cluster: str, shared: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """`hma` twice: the second pass reads averages that the first has written over there."""
    here = train_until_it_waits(shared, pack_photographs(shared, tmp_path), tmp_path / "run")
    for name in ("data", "labels", "run"):
        bucket.upload(tmp_path / name, name)
    there = Case(Path("s3://bucket/data"), here.encoder, Path("s3://bucket/run"))
    folders = ("labels", "averages", "checkpoints", "commits", "rectified")
    for message in ("label generation 1 of 9 images", "label generation 2 of 9 images"):
        assert here.averaging().code == 0
        done = call(*there.averaging_arguments("--ray-address", cluster, "--workers", "auto"))
        assert done.code == 0, done.stderr
        assert message in done.stdout
        found = {n: d for n, d in bucket.files("run").items() if n.startswith(folders)}
        assert found == contents(here.out)
        assert here.stage2().code == 0
        done = there.stage2()
        assert done.code == 0, done.stderr
    found = {n: d for n, d in bucket.files("run").items() if n.startswith(folders)}
    assert found == contents(here.out)
    assert len([name for name in found if name.startswith("rectified/")]) == 9
    assert (tmp_path / "other-machine" / urls.MARK / "blobs").exists()
