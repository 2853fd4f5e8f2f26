"""The cache of objects: shared, bounded, and never wrong."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest
from fault_proxy import Fault
from object_store import Bucket

from a2s.errors import StorageError
from a2s.storage import files
from a2s.storage.objects import cache, mirror, urls

KB = 1024


def folder(bucket: Bucket, **contents: bytes) -> Path:
    """A folder of the store, listed."""
    for name, data in contents.items():
        bucket.put(f"data/{name.replace('_', '.')}", data)
    path = urls.local_path("s3://bucket/data")
    mirror.read_folder(path)
    return path


def blobs() -> list[Path]:
    return [path for path in (urls.root() / "blobs").rglob("*") if path.is_file()]


def test_small_files_are_fetched_and_large_ones_when_they_are_read(bucket: Bucket) -> None:
    path = folder(bucket, a_json=b"{}", a_tar=b"t" * 100)
    assert (path / "a.json").read_bytes() == b"{}"
    assert not (path / "a.tar").exists()
    assert files.size_of(path / "a.tar") == 100
    assert files.is_there(path / "a.tar")
    assert not files.is_there(path / "b.tar")
    assert files.read_bytes(path / "a.tar") == b"t" * 100
    asked = len(bucket.proxy.requests)
    assert files.read_bytes(path / "a.tar") == b"t" * 100
    assert len(bucket.proxy.requests) == asked


def test_a_url_and_a_path_of_another_machine_can_be_opened(bucket: Bucket) -> None:
    """As a Ray worker does that got the path from the machine of the driver."""
    bucket.put("data/a.tar", b"tar")
    for path in ("s3://bucket/data/a.tar", f"/n/{urls.MARK}/read/s3/bucket/data/a.tar"):
        with files.open_file(path) as file:
            assert file.read() == b"tar"
    with pytest.raises(FileNotFoundError):
        files.open_file("s3://bucket/data/b.tar")


def test_a_changed_folder_is_noticed(bucket: Bucket) -> None:
    path = folder(bucket, a_json=b"1", b_json=b"2", c_tar=b"old")
    assert files.read_bytes(path / "c.tar") == b"old"
    bucket.delete("data/a.json")
    bucket.put("data/c.tar", b"new")
    mirror.read_folder(path)
    assert sorted(one.name for one in path.iterdir()) == ["b.json", "c.tar"]
    assert files.read_bytes(path / "c.tar") == b"new"


def test_an_object_that_was_replaced_since_it_was_listed_is_refused(bucket: Bucket) -> None:
    path = folder(bucket, c_tar=b"old", a_json=b"")
    bucket.put("data/c.tar", b"new")
    with pytest.raises(StorageError, match=r"s3://bucket/data/c.tar: was replaced"):
        files.read_bytes(path / "c.tar")


def test_the_longest_unused_objects_make_room(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT, str(300 * KB / 2**30))
    names = [f"{number}.tar" for number in range(6)]
    for name in names:
        bucket.put(f"data/{name}", os.urandom(64 * KB))
    path = folder(bucket)
    # In seconds since the last use: the first one was used again.
    ages = {Path(os.readlink(path / name)): 1000 - 10 * n for n, name in enumerate(names)}
    ages[Path(os.readlink(path / "0.tar"))] = 100
    for name in names:
        assert files.read_bytes(path / name) == bucket.get(f"data/{name}")
        for blob in blobs():
            os.utime(blob, (time.time() - ages[blob],) * 2)
        assert sum(blob.stat().st_size for blob in blobs()) <= 300 * KB
    assert (path / "0.tar").exists()
    assert not (path / "1.tar").exists()
    assert files.read_bytes(path / "1.tar") == bucket.get("data/1.tar")


def test_an_object_larger_than_the_cache_is_refused(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.LIMIT, str(10 * KB / 2**30))
    path = folder(bucket, a_tar=b"x" * 20 * KB, a_json=b"")
    with pytest.raises(StorageError, match=f"more than the cache may hold.*{cache.LIMIT}"):
        files.read_bytes(path / "a.tar")


def test_a_cut_off_fetch_leaves_nothing(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from a2s.storage.objects import retries

    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    path = folder(bucket, a_tar=b"x" * 1000)
    bucket.proxy.faults = [Fault("cut", "GET", "a.tar", times=2)]
    with pytest.raises(StorageError, match="cannot be read"):
        files.read_bytes(path / "a.tar")
    assert not blobs()
    assert files.read_bytes(path / "a.tar") == b"x" * 1000


def _read(path: Path, queue: multiprocessing.Queue[int]) -> None:
    queue.put(len(files.read_bytes(path)))


def test_processes_fetch_an_object_once(bucket: Bucket) -> None:
    path = folder(bucket, a_tar=os.urandom(500 * KB), b_json=b"")
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[int] = context.Queue()
    asked = bucket.proxy.count("GET", "a.tar")
    some = [context.Process(target=_read, args=(path / "a.tar", queue)) for _ in range(3)]
    for process in some:
        process.start()
    assert [queue.get(timeout=120) for _ in some] == [500 * KB] * 3
    for process in some:
        process.join()
    assert bucket.proxy.count("GET", "a.tar") == asked + 1
