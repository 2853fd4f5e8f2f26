"""Working folders: what is written is published, in an order that a crash cannot harm."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_proxy import Fault
from object_store import Bucket, puts, write

from a2s.errors import ConfigError, StorageError
from a2s.storage import files
from a2s.storage.objects import lease, mirror, publisher, retries, session, urls
from a2s.storage.objects.retries import Conflict

URL = "s3://bucket/out"


@pytest.fixture
def work(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that is published only when it is asked for."""
    monkeypatch.setattr(publisher, "INTERVAL_SEC", 1000.0)
    return urls.local_path(URL, "work")


@pytest.fixture
def publishing(work: Path) -> Iterator[publisher.Publisher]:
    with lease.hold(URL, "label") as held:
        work.mkdir(parents=True)
        yield publisher.Publisher(work, "label", held, mirror.work_folder(work))


def test_what_declares_files_finished_comes_last(
    work: Path, publishing: publisher.Publisher, bucket: Bucket
) -> None:
    write(work / "shard-000000.json", "{}")
    write(work / "shard-000000.tar", "tar")
    write(work / "checkpoints/00001/model.safetensors", "m")
    write(work / "commits/00001.json", "{1}")
    write(work / "metrics.jsonl", "{}\n")
    assert publishing.publish()
    order = puts(bucket)
    assert order[0] == "metrics.jsonl"
    assert order[-2:] == ["shard-000000.json", "commits/00001.json"]
    assert len(order) == 5


def test_only_changes_are_published(
    work: Path, publishing: publisher.Publisher, bucket: Bucket
) -> None:
    write(work / "a.txt", "1")
    write(work / "b.txt", "2")
    write(work / ".hidden/c", "3")
    assert publishing.publish()
    bucket.proxy.requests.clear()
    write(work / "a.txt", "4")
    (work / "b.txt").unlink()
    assert publishing.publish()
    assert puts(bucket) == ["a.txt"]
    assert {k: v for k, v in bucket.files("out").items() if k != ".lock"} == {"a.txt": b"4"}
    assert publishing.publish()
    assert puts(bucket) == ["a.txt"]


def test_a_manifest_never_stands_beside_files_of_another(
    work: Path, publishing: publisher.Publisher, bucket: Bucket
) -> None:
    for text in ("old", "new"):
        write(work / "s.tar", text)
        write(work / "s.json", f"of {text}")
        bucket.proxy.requests.clear()
        assert publishing.publish()
    changes = [
        (method, path.split("?")[0].removeprefix("/bucket/out/"))
        for method, path in bucket.proxy.requests
        if method in ("PUT", "DELETE") and ".lock" not in path
    ]
    assert changes == [("DELETE", "s.json"), ("PUT", "s.tar"), ("PUT", "s.json")]


def test_data_that_is_not_there_keeps_its_manifest_back(
    work: Path, publishing: publisher.Publisher, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    write(work / "s.tar", "tar")
    write(work / "s.json", "{}")
    bucket.proxy.faults = [Fault("503", "PUT", "s.tar", times=2)]
    with pytest.raises(StorageError):
        publishing.publish()
    assert "s.json" not in bucket.files("out")
    assert publishing.publish()
    assert bucket.files("out").keys() == {".lock", "s.json", "s.tar"}


def test_an_answer_without_a_deed_is_noticed(
    work: Path, publishing: publisher.Publisher, bucket: Bucket
) -> None:
    write(work / "s.json", "{}")
    bucket.proxy.faults = [Fault("not stored", "PUT", "s.json")]
    with pytest.raises(StorageError, match="is not there"):
        publishing.publish()
    assert publishing.publish()
    assert bucket.get("out/s.json") == b"{}"


def test_what_another_writer_has_changed_is_not_replaced(
    work: Path, publishing: publisher.Publisher, bucket: Bucket
) -> None:
    write(work / "s.json", "ours")
    bucket.put("out/s.json", b"theirs")
    with pytest.raises(Conflict, match=r"s3://bucket/out/s\.json: somebody else"):
        publishing.publish()
    assert bucket.get("out/s.json") == b"theirs"


def test_a_published_shard_belongs_to_the_cache(
    work: Path, publishing: publisher.Publisher, bucket: Bucket
) -> None:
    write(work / "s.tar", "tar")
    assert publishing.publish()
    blob = Path(os.readlink(work / "s.tar"))
    assert files.size_of(work / "s.tar") == 3
    blob.unlink()
    assert files.read_bytes(work / "s.tar") == b"tar"
    bucket.proxy.requests.clear()
    write(work / "s.tar", "new one")
    assert publishing.publish()
    assert bucket.get("out/s.tar") == b"new one"


def test_a_fresh_machine_finds_what_was_published(
    bucket: Bucket, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session.published(work, "label"):
        write(work / "s.tar", "tar")
        write(work / "log.jsonl", "1\n")
    assert not work.exists()
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "other"))
    fresh = urls.local_path(URL, "work")
    with session.published(fresh, "label"):
        with (fresh / "log.jsonl").open("a") as file:
            file.write("2\n")
        assert files.read_bytes(fresh / "s.tar") == b"tar"
    assert bucket.get("out/log.jsonl") == b"1\n2\n"


def _write_published(work: Path, name: str, *, error: BaseException | None = None) -> None:
    with session.published(work, "label"):
        write(work / name, "2")
        if error is not None:
            raise error


def test_work_that_was_not_published_is_kept_and_published_later(
    bucket: Bucket, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    with session.published(work, "label"):
        write(work / "a.json", "1")
    bucket.proxy.faults = [Fault("500", "PUT", "b.json", times=9)]
    with pytest.raises(StorageError, match="same command publishes it"):
        _write_published(work, "b.json")
    bucket.proxy.faults = []
    with session.published(work, "label"):
        assert (work / "b.json").read_text() == "2"
    assert bucket.get("out/b.json") == b"2"


def test_what_another_machine_went_on_with_wins_over_what_is_left_here(
    bucket: Bucket, work: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        _write_published(work, "a.json", error=KeyboardInterrupt())
    bucket.put("out/a.json", b"of another machine")
    write(work / "rest.txt", "left")
    with session.published(work, "label"):
        assert (work / "a.json").read_text() == "of another machine"
        assert not (work / "rest.txt").exists()


def test_a_folder_in_use_is_refused(bucket: Bucket, work: Path) -> None:
    found: list[Exception] = []

    def second() -> None:
        try:
            with lease.hold(URL, "label"):
                pass
        except ConfigError as error:
            found.append(error)

    with lease.hold(URL, "label"):
        bucket.put(
            "out/.lock",
            bucket.get("out/.lock").replace(f'"pid": {os.getpid()}'.encode(), b'"pid": 1'),
        )
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "s3://bucket/out is in use by a2s label, pid" in str(found[0])


def test_a_log_that_grows_holds_nothing_back(
    work: Path, publishing: publisher.Publisher, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(work / "metrics.jsonl", "1\n")
    write(work / "s.json", "{}")
    read = publisher._read

    def growing(path: Path, state: object, *, may_grow: bool) -> bytes:
        with (work / "metrics.jsonl").open("a") as file:
            file.write("2\n")
        return read(path, state, may_grow=may_grow)  # type: ignore[arg-type]

    monkeypatch.setattr(publisher, "_read", growing)
    assert not publishing.publish()
    assert bucket.get("out/s.json") == b"{}"
    assert bucket.get("out/metrics.jsonl") == b"1\n"
