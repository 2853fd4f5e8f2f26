"""A folder of a store that ranks of several machines write into; here as threads and by turns."""

from __future__ import annotations

from typing import cast

import pytest
from object_store import Bucket, puts, write

from a2s.errors import StorageError
from a2s.storage import files
from a2s.storage.objects import (
    elsewhere,
    lease,
    machines,
    meeting,
    mirror,
    publisher,
    session,
    urls,
)
from a2s.storage.objects.elsewhere import Job
from a2s.storage.objects.machines import Shared

OUT = "s3://bucket/out"


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of rank 0 of two machines with a rank each."""
    monkeypatch.setattr(publisher, "INTERVAL_SEC", 1000.0)
    values = {"MASTER_PORT": "29500", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "RANK": "0"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def copy(bucket: Bucket, launch: None) -> Shared:
    """What a rank has on a machine of its own, while rank 0 holds the folder."""
    held = lease._acquire(f"{OUT}/{lease.NAME}", OUT, "stage2")
    return Shared(urls.local_path(OUT, "work"), "stage2", token=held.token, is_copy=True)


def test_ranks_elsewhere_put_what_they_write(bucket: Bucket, copy: Shared) -> None:
    work = copy.work
    write(work / "labels/00001/r0001.rows", "rows")
    write(work / "rectified/s.json", "{}")
    write(work / "rectified/s.tar", "tar")
    write(work / ".temporary", "")
    machines.put_written(copy)
    assert set(puts(bucket)[:2]) == {"labels/00001/r0001.rows", "rectified/s.tar"}
    assert puts(bucket)[2:] == ["rectified/s.json"]
    machines.put_written(copy)
    assert len(puts(bucket)) == 3
    # The cache may make room by it.
    assert (work / "labels/00001/r0001.rows").is_symlink()
    assert files.read_bytes(work / "labels/00001/r0001.rows") == b"rows"


def test_their_copy_becomes_equal_to_the_store(bucket: Bucket, copy: Shared) -> None:
    work = copy.work
    write(work / "labels/00001/r0001.rows", "rows")
    write(work / "old/left.rows", "of a killed run")
    machines.put_written(copy)
    bucket.put("out/commits/00001.json", b"1")
    bucket.put("out/labels/00001/r0000.rows", b"of rank 0")
    bucket.delete("out/old/left.rows")
    machines.follow(copy)
    assert (work / "commits/00001.json").read_bytes() == b"1"
    assert files.read_bytes(work / "labels/00001/r0000.rows") == b"of rank 0"
    assert not (work / "old").exists()
    before = len(bucket.proxy.requests)
    machines.follow(copy)
    machines.put_written(copy)
    # The folder is listed, and nothing is fetched or put again.
    assert not [path for _, path in bucket.proxy.requests[before:] if "/00001" in path]
    bucket.put("out/commits/00001.json", b"2")
    machines.follow(copy)
    assert (work / "commits/00001.json").read_bytes() == b"2"


def test_nothing_is_put_when_rank_0_has_lost_the_folder(
    bucket: Bucket, copy: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(lease.TAKEOVER, "1")
    lease._acquire(f"{OUT}/{lease.NAME}", OUT, "another")
    write(copy.work / "a.rows", "1")
    with pytest.raises(StorageError, match="does not hold it any more"):
        machines.put_written(copy)
    assert bucket.keys("out/a") == []


def test_a_machine_with_the_cache_of_rank_0_has_its_folder(bucket: Bucket, copy: Shared) -> None:
    job = Job(copy.work, copy.token, copy.lock_url)
    with elsewhere.commanded(job, cast("publisher.Publisher", None)):
        machines.hear(copy, copy.token)
        assert not copy.is_copy
    write(copy.work / "a.rows", "1")
    machines.put_written(copy)
    assert bucket.keys("out/a") == []


def test_rank_0_publishes_before_the_others_begin(
    bucket: Bucket, launch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = urls.local_path(OUT, "work")
    with lease.hold(OUT, "stage2") as held:
        known = mirror.work_folder(work)
        write(work / "left.rows", "by a call that could not publish")
        one = publisher.Publisher(work, "stage2", held, known)
        with machines.led(work, "stage2", held, one):
            assert bucket.get("out/left.rows") == b"by a call that could not publish"
            assert machines.current() is not None
            place = meeting.InStore(OUT)
            said = meeting.ask(place, start=machines._start(), patience_sec=60)
            assert said == machines.cache_id()
        assert machines.current() is None
    assert bucket.keys("out/.asks") == []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(machines, "READY_SEC", 0.0)
    with (
        pytest.raises(StorageError, match="rank 0 has not begun"),
        session.published(work, "stage2"),
    ):
        pass
