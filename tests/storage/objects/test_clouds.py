"""What a2s asks of a store, of Google's and Microsoft's protocol (S3: `test_requests`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cloud_emulators
import pytest
from processes import call, pack

from a2s.errors import ConfigError
from a2s.storage.objects import cache, lease, retries, s3, stores
from a2s.storage.objects.retries import Conflict

if TYPE_CHECKING:
    from conftest import SceneFolders


# aiohttp says so of what the libraries below give it.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")


@pytest.fixture(scope="module", params=["gs", "az"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The scheme of a store that runs on this machine."""
    start = {"gs": cloud_emulators.google, "az": cloud_emulators.azure}[request.param]
    with pytest.MonkeyPatch.context() as patch, start(patch):
        yield request.param


@pytest.fixture
def folder(
    server: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """URL of an empty folder, and a cache of this test's own."""
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retries, "FIRST_WAIT_SEC", 0.01)
    monkeypatch.setattr(cache, "_fetched", {"bytes": -1})
    return f"{server}://bucket/{request.node.originalname}"


def content(url: str) -> bytes:
    store = stores.store_of(url)
    one = store.head(url)
    assert one is not None
    return store.read(one, 0, one.size)


def test_of_two_writers_one_wins(folder: str) -> None:
    url = f"{folder}/a b/ä.json"
    store = stores.store_of(url)
    first = store.put(url, b"a", expect=s3.ABSENT, token="a")
    with pytest.raises(Conflict, match="somebody else"):
        store.put(url, b"b", expect=s3.ABSENT, token="b")
    second = store.put(url, b"c", expect=first.etag, token="c")
    assert second.etag != first.etag
    with pytest.raises(Conflict):
        store.put(url, b"d", expect=first.etag, token="d")
    assert content(url) == b"c"
    # The same request once more, as after a lost answer: it was this writer.
    assert store.put(url, b"c", expect=first.etag, token="c").etag == second.etag
    assert store.put(url, b"e", expect=None, token="e").token == "e"
    store.delete(url)
    with pytest.raises(Conflict):
        store.put(url, b"f", expect=second.etag, token="f")
    store.delete(url)
    assert store.head(url) is None


def condition_of(store: stores.Store, url: str, file: Path, expect: str) -> str:
    """The generation that the request names with which an upload begins."""
    found: dict[str, str] = {}

    async def call(*_: object, **parameters: str) -> None:
        found.update(parameters)
        raise FileExistsError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.file_system, "_call", call)
        patch.setattr(store, "head", lambda url: None)
        with pytest.raises(Conflict):
            store.put_file(url, file, expect=expect, token="b")
    assert found["uploadType"] == "resumable"
    return found["ifGenerationMatch"]


def test_a_large_file_goes_in_parts_and_by_condition(
    server: str, folder: str, tmp_path: Path
) -> None:
    url, data = f"{folder}/large.tar", os.urandom(s3.PART_BYTES + 70_000)
    (tmp_path / "large").write_bytes(data)
    store = stores.store_of(url)
    first = store.put_file(url, tmp_path / "large", expect=s3.ABSENT, token="a")
    assert (first.size, first.token) == (len(data), "a")
    for expect in (s3.ABSENT, "1"):
        if server == "gs":
            # This server looks at no condition of a read or an upload in parts; Google's does.
            assert condition_of(store, url, tmp_path / "large", expect) == (expect or "0")
            continue
        with pytest.raises(Conflict):
            store.put_file(url, tmp_path / "large", expect=expect, token="b")
    stores.copy_to(first, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert store.read(first, s3.PART_BYTES, s3.PART_BYTES + 10) == data[s3.PART_BYTES :][:10]
    (tmp_path / "large").write_bytes(data[::-1])
    second = store.put_file(url, tmp_path / "large", expect=first.etag, token="b")
    assert content(url) == data[::-1]
    # What was listed before must not be mixed with what is there now.
    if server == "az":
        with pytest.raises(Conflict):
            store.read(first, 0, 10)
    assert store.read(second, 0, 10) == data[::-1][:10]


def test_a_folder_is_listed(folder: str) -> None:
    store = stores.store_of(folder)
    assert list(store.find(folder)) == []
    for name in ("x", "a/y", "a/b/z"):
        store.put(f"{folder}/{name}", name.encode(), expect=s3.ABSENT, token="t")
    store.put(f"{folder}-more", b"", expect=None, token="t")
    found = {one.url: one for one in store.find(folder)}
    assert sorted(found) == [f"{folder}/{name}" for name in ("a/b/z", "a/y", "x")]
    for url, one in found.items():
        there = store.head(url)
        assert there is not None
        assert (there.etag, there.size) == (one.etag, one.size)


def test_a_lock_has_one_holder(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with lease.hold(folder, "label") as held, monkeypatch.context() as elsewhere:
        assert lease.is_held(held.url, held.token)
        elsewhere.setattr(lease, "state_of", lambda pid: "running")
        elsewhere.setattr(os, "getpid", os.getppid)
        with pytest.raises(ConfigError, match="is in use by a2s label"):
            lease._acquire(held.url, folder, "label")
    assert not lease.is_held(held.url, held.token)
    with lease.hold(folder, "label"):
        pass


@pytest.mark.slow
def test_commands_on_the_store(
    folder: str, scenes: SceneFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, labels = f"{folder}/data", f"{folder}/labels"
    done = call("shard", scenes.train, "--out", data, "--shard-size", 3, "--workers", 0)
    assert done.code == 0, done.stderr
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "another"))
    label = ["label", "--model", "rbd", "--workers", 0]
    done = call(*label, "--data", data, "--out", labels)
    assert done.code == 0, done.stderr
    assert "finished" in call("status", labels).stdout
    assert call("verify", labels).code == 0
    here = pack(scenes.train, tmp_path / "data")
    assert call(*label, "--data", here, "--out", tmp_path / "labels").code == 0
    for path in (tmp_path / "labels").glob("shard-*.tar"):
        assert content(f"{labels}/{path.name}") == path.read_bytes()
