"""Web servers: what each says and does becomes bytes, a list, or one line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from odd_server import OddServer, odd_server

from a2s.errors import DataError, StorageError
from a2s.storage import listing, remote
from a2s.storage.objects import retries, stores
from a2s.storage.objects.kinds import web
from a2s.storage.objects.retries import Conflict

DATA = os.urandom(3_000_000)
PAGE = b"""<html><a href="?C=N;O=D">Name</a> <a href="/">Parent</a> <a href="../">up</a>
<a href="a.bin">a</a> <a href="with%20space.bin">b</a> <a href="/list/deep/">deep</a>
<a href="http://elsewhere.invalid/list/c.bin">c</a> <a href="//[bad">d</a> <a>e</a>
<a href="./sub/">sub</a> <a href="sub/f.bin">f</a></html>"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OddServer]:
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "_stores", {})
    monkeypatch.setattr(retries, "FIRST_WAIT_SEC", 0.01)
    monkeypatch.setattr(web, "STALL_SEC", 2.0)
    with odd_server({"a.bin": DATA}) as server:
        yield server


def copied(url: str, tmp_path: Path) -> bytes:
    one = stores.store_of(url).head(url)
    assert one is not None
    stores.copy_to(one, tmp_path / "copy")
    return (tmp_path / "copy").read_bytes()


def streamed(url: str) -> bytes:
    return remote.download(url, max_bytes=10**7, max_sec=60)


@pytest.mark.parametrize("habit", ["plain", "by-range", "no-head", "to-host"])
def test_files_of_all_kinds_of_servers(habit: str, server: OddServer, tmp_path: Path) -> None:
    assert copied(f"{server.url}/{habit}/a.bin", tmp_path) == DATA
    assert streamed(f"{server.url}/{habit}/a.bin") == DATA
    # A stream begins with no question.
    assert [one[0] for one in server.seen][-1] == "GET"


@pytest.mark.parametrize("habit", ["500", "503", "cut", "cut-range"])
def test_what_passes_is_outlived(habit: str, server: OddServer, tmp_path: Path) -> None:
    server.faults_left = 2
    assert copied(f"{server.url}/{habit}/a.bin", tmp_path) == DATA
    server.faults_left = 2
    server.seen.clear()
    assert streamed(f"{server.url}/{habit}/a.bin") == DATA
    asked = [headers.get("Range") for _, _, headers in server.seen]
    assert len(asked) == 3
    if habit == "cut-range":
        # It goes on where it was cut.
        assert asked[0] is None
        assert str(asked[-1]).startswith("bytes=")


def test_a_file_that_is_replaced_meanwhile(server: OddServer, tmp_path: Path) -> None:
    url = f"{server.url}/plain/a.bin"
    one = stores.store_of(url).head(url)
    assert one is not None
    server.etag = '"2"'
    with pytest.raises(Conflict):
        stores.copy_to(one, tmp_path / "copy")
    stream = stores.store_of(f"{server.url}/cut/a.bin").stream(f"{server.url}/cut/a.bin")  # type: ignore[attr-defined]
    server.etag = '"3"'
    with pytest.raises(Conflict):
        list(iter(lambda: stream.read(2**20), b""))


@pytest.mark.parametrize(
    ("habit", "message", "requests"),
    [
        ("403", "403 Forbidden", 2),
        ("401", "401 Unauthorized", 2),
        ("416", "416 Requested Range Not Satisfiable", 2),
        ("429", "429 Too Many Requests, 8 tries", 8),
        ("500", "500 Internal Server Error, 8 tries", 8),
        ("501", "501 Not Implemented", 1),
        ("circle", "the server leads on in a circle", 0),
        ("to-file", "the server leads to file:///etc/passwd, which is no address of the web", 1),
        ("to-nowhere", "302 leads on", 1),
    ],
)
def test_failures_are_what_they_were(
    habit: str, message: str, requests: int, server: OddServer
) -> None:
    url = f"{server.url}/{habit}/a.bin"
    with pytest.raises(StorageError) as caught:
        stores.store_of(url).head(url)
    assert str(caught.value).startswith(f"{url}: cannot be read ({message}")
    assert "\n" not in str(caught.value)
    assert requests in (0, len(server.seen))
    with pytest.raises(StorageError, match=habit.partition("-")[0]) as caught:
        streamed(url)
    assert message.partition(",")[0] in str(caught.value)
    with pytest.raises(StorageError, match="cannot be listed"):
        listing.Folder.open(f"{server.url}/{habit}/folder")


@pytest.mark.parametrize("habit", ["404", "410", "plain/none"])
def test_what_is_not_there(habit: str, server: OddServer) -> None:
    url = f"{server.url}/{habit}/a.bin"
    assert stores.store_of(url).head(url) is None
    assert list(stores.store_of(url).find(f"{server.url}/{habit}")) == []
    with pytest.raises(DataError, match="there is no such object"):
        streamed(url)


def test_a_server_that_packs_although_it_was_asked_not_to(
    server: OddServer, tmp_path: Path
) -> None:
    url = f"{server.url}/gzip/a.bin"
    assert streamed(url) == DATA
    with pytest.raises(DataError, match="does not say how long it is; download it first"):
        copied(url, tmp_path)
    assert {one[2].get("Accept-Encoding") for one in server.seen} == {"identity"}


def test_more_bytes_than_were_told_are_not_taken(server: OddServer, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"more the 3,000,000 bytes|more than"):
        copied(f"{server.url}/endless/a.bin", tmp_path)
    assert (tmp_path / "copy").stat().st_size <= len(DATA)


def test_a_folder_is_what_its_page_links_to_right_below(server: OddServer) -> None:
    server.files |= {"": PAGE, "sub/": b"<html><a href='f.bin'></a></html>"}
    server.files |= {"with%20space.bin": b"b", "sub/f.bin": b"f", "deep/": b"<html></html>"}
    root = f"{server.url}/list"
    found = {one.url.removeprefix(f"{root}/") for one in stores.store_of(root).find(root)}
    assert found == {"a.bin", "with%20space.bin", "sub/f.bin"}
    assert set(listing.Folder.open(root).entries) == {"a.bin", "with%20space.bin", "sub", "deep"}


def test_a_folder_of_which_a_part_cannot_be_listed_is_not_taken_for_a_smaller_one(
    server: OddServer,
) -> None:
    server.files |= {"": b"<html><a href='a.bin'></a><a href='sub/'></a></html>"}
    root = f"{server.url}/list"
    store = stores.store_of(root)

    def fails(url: str, **kwargs: object) -> object:
        if "/sub" in url:
            raise ConnectionResetError("gone")
        return ls(url, **kwargs)

    ls = store.file_system.ls
    store.file_system.ls = fails
    with pytest.raises(StorageError, match="/list/sub: cannot be listed"):
        list(store.find(root))


def test_folders_without_end_are_one_line(
    server: OddServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b"<html><a href='again/'></a></html>"
    server.files = {"again/" * depth: page for depth in range(10)}
    monkeypatch.setattr(web, "MAX_DEPTH", 5)
    root = f"{server.url}/list"
    with pytest.raises(StorageError, match="more than 5 folders above it"):
        list(stores.store_of(root).find(root))


def test_a_server_that_is_not_there(free_port: int, server: OddServer) -> None:
    url = f"http://127.0.0.1:{free_port}/a.bin"
    with pytest.raises(StorageError, match="8 tries"):
        streamed(url)
    with pytest.raises(StorageError, match="8 tries"):
        stores.store_of(url).head(url)


def test_time_ends(server: OddServer) -> None:
    stream = stores.store_of(server.url).stream(f"{server.url}/plain/a.bin", max_sec=0.2)  # type: ignore[attr-defined]
    stream.close()
    time.sleep(0.3)
    with pytest.raises(StorageError, match=r"\(timed out\)"):
        stream.read(10)


def test_passwords_come_from_netrc(
    server: OddServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert streamed(f"{server.url}/plain/a.bin") == DATA
    assert server.seen[0][2]["Authorization"].startswith("Basic ")
