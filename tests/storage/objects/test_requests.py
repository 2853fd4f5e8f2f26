"""Requests to a real S3 service, with what networks and busy stores do."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_proxy import Fault, Kind
from object_store import Bucket

from a2s.errors import ConfigError, StorageError
from a2s.storage.objects import retries, s3, stores
from a2s.storage.objects.retries import Conflict

URL = "s3://bucket/x.bin"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs of a second, parts of 64 kB."""
    monkeypatch.setattr(s3, "STALL_SEC", 1.0)
    monkeypatch.setattr(s3, "REQUEST_SEC", 2.0)
    monkeypatch.setattr(s3, "PART_BYTES", 65_536)


def fetched(tmp_path: Path) -> bytes:
    one = stores.store_of(URL).head(URL)
    assert one is not None
    stores.copy_to(one, tmp_path / "copy")
    return (tmp_path / "copy").read_bytes()


@pytest.mark.parametrize("kind", ["500", "503", "stall", "slow", "cut", "lost request"])
def test_a_read_outlives_what_passes(
    kind: Kind, bucket: Bucket, tmp_path: Path, quick: None
) -> None:
    data = os.urandom(200_000)
    bucket.put("x.bin", data)
    bucket.proxy.faults = [Fault(kind, "GET", "x.bin", times=2)]
    assert fetched(tmp_path) == data
    # By range: only the parts that failed were asked for again.
    assert bucket.proxy.count("GET", "x.bin") == 4 + 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["500", "503", "stall", "lost request", "lost answer"])
@pytest.mark.parametrize("expect", [s3.ABSENT, "etag"])
def test_a_write_outlives_what_passes(
    kind: Kind, expect: str, bucket: Bucket, tmp_path: Path, quick: None
) -> None:
    store = stores.store_of(URL)
    if expect:
        expect = store.put(URL, b"old", expect=s3.ABSENT, token="old").etag
    bucket.proxy.faults = [Fault(kind, "PUT", "x.bin", times=2)]
    written = store.put(URL, b"new", expect=expect, token="new")
    assert bucket.get("x.bin") == b"new"
    assert store.head(URL).etag == written.etag  # type: ignore[union-attr]


def test_of_two_writers_one_wins(bucket: Bucket) -> None:
    store = stores.store_of(URL)
    first = store.put(URL, b"a", expect=s3.ABSENT, token="a")
    with pytest.raises(Conflict, match="somebody else"):
        store.put(URL, b"b", expect=s3.ABSENT, token="b")
    store.put(URL, b"c", expect=first.etag, token="c")
    with pytest.raises(Conflict):
        store.put(URL, b"d", expect=first.etag, token="d")
    assert bucket.get("x.bin") == b"c"


def test_a_large_file_goes_in_parts_and_by_condition(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(s3.PART_BYTES + 70_000)
    (tmp_path / "large").write_bytes(data)
    store = stores.store_of(URL)
    bucket.proxy.faults = [
        Fault("503", "PUT", "partNumber"),
        Fault("lost answer", "POST", "uploadId"),
    ]
    written = store.put_file(URL, tmp_path / "large", expect=s3.ABSENT, token="a")
    assert bucket.get("x.bin") == data
    assert written.size == len(data)
    assert fetched(tmp_path) == data


def test_an_object_that_is_replaced_while_it_is_read(bucket: Bucket, quick: None) -> None:
    bucket.put("x.bin", b"a" * 10)
    store = stores.store_of(URL)
    one = store.head(URL)
    assert one is not None
    bucket.put("x.bin", b"b" * 10)
    with pytest.raises(Conflict):
        store.read(one, 0, 10)


def test_a_store_that_stays_away_is_one_line_and_bounded(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 3)
    bucket.proxy.faults = [Fault("503", times=99)]
    with pytest.raises(StorageError) as caught:
        stores.store_of(URL).put(URL, b"x", expect=None, token="t")
    assert str(caught.value).startswith(f"{URL}: cannot be written (")
    assert "(injected, 3 tries in " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(bucket.proxy.requests) == 3


def test_patience_ends(bucket: Bucket, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PATIENCE_SEC", 1.5)
    bucket.put("x.bin", b"x")
    bucket.proxy.faults = [Fault("stall", "HEAD", times=99)]
    began = time.monotonic()
    with pytest.raises(StorageError, match="timed out"):
        stores.store_of(URL).head(URL)
    assert time.monotonic() - began < 8


def test_what_will_not_pass_is_not_repeated(bucket: Bucket) -> None:
    bucket.proxy.faults = [Fault("403", times=99)]
    with pytest.raises(StorageError, match=r"injected|Forbidden"):
        stores.store_of(URL).put(URL, b"x", expect=None, token="t")
    assert len(bucket.proxy.requests) == 1
    bucket.proxy.faults = []
    assert stores.store_of(URL).head(URL) is None
    with pytest.raises(FileNotFoundError):
        list(stores.store_of(URL).find("s3://no-such-bucket/x"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("400", "injected"),
        ("403", "injected"),
        ("301", "injected; the bucket is in the region eu-west-1: set AWS_REGION to it"),
        ("501", "Not Implemented"),
        ("circle", "the server leads on in a circle"),
    ],
)
def test_what_will_not_pass_is_told_with_its_reason(
    kind: Kind, message: str, bucket: Bucket
) -> None:
    """The answer to HEAD has none."""
    bucket.proxy.faults = [Fault(kind, times=99)]
    with pytest.raises(StorageError) as caught:
        stores.store_of(URL).head(URL)
    assert str(caught.value) == f"{URL}: cannot be read ({message})"


def test_a_server_that_is_no_store_is_one_line(bucket: Bucket) -> None:
    bucket.proxy.faults = [Fault("no store", times=99)]
    with pytest.raises(StorageError, match="no answer of a store of objects; see AWS_ENDPOINT_URL"):
        stores.store_of(URL).head(URL)


@pytest.mark.parametrize("name", ["buc ket", "bücket", "b:80"])
def test_a_bucket_that_cannot_be_is_one_short_line(name: str, bucket: Bucket) -> None:
    url = f"s3://{name}/x"
    with pytest.raises(StorageError) as caught:
        stores.store_of(url).head(url)
    assert str(caught.value) == f"{url}: cannot be read (no bucket can have this name)"


@pytest.mark.slow
def test_a_long_listing_comes_in_pages(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"many/{number:04d}" for number in range(1001)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda name: bucket.put(name, b""), names))
    bucket.put("many-more", b"")
    bucket.proxy.faults = [Fault("500", "GET", "continuation-token")]
    found = [one.url for one in stores.store_of(URL).find("s3://bucket/many")]
    assert found == [f"s3://bucket/{name}" for name in names]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_stores", {})
    with pytest.raises(ConfigError, match=r"pip install 'a2s\[gcs\]'"):
        stores.store_of("gs://bucket/x")
