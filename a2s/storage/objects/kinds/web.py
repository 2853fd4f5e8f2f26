"""Web servers, which are only read (`stores.refuse_read_only`): pages that list folders, and files.

A file is read as one stream, since many servers answer no request for a part of it. Where it breaks
off, it goes on by range or, from such a server, after what came before.
"""

from __future__ import annotations

import html.parser
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem

from a2s.errors import StorageError
from a2s.storage.objects.kinds.by_fsspec import TIMES, ByFsspec
from a2s.storage.objects.retries import CONNECT_SEC, STALL_SEC, Conflict, LateError, retried
from a2s.storage.objects.s3 import PART_BYTES, Object

MAX_DEPTH = 64
"""Folders within folders; some servers make up as many as one asks for."""
THREADS = 16
_PAGE = "text/html"
_PASS = (404, 408, 410, 429)
"""Answers to a question about a file after which asking for it would tell nothing else."""


class Web(ByFsspec):
    """The files of web servers, by their URL."""

    def __init__(self, scheme: str) -> None:
        # Proxies are those of the environment, and passwords those of .netrc.
        headers = {"Accept-Encoding": "identity"}
        client = {"trust_env": True, "headers": headers, "timeout": timeout()}
        super().__init__(scheme, Pages(skip_instance_cache=True, client_kwargs=client))

    def find(self, url: str) -> Iterator[Object]:
        """List a file, or what a server shows as pages.

        Raises:
            StorageError: a page of it cannot be read, or folders have no end.
        """
        try:
            info = retried(url, "listed", lambda: self._fs.info(url))
        except FileNotFoundError:
            info = {"mimetype": _PAGE}
        is_page = info.get("mimetype") == _PAGE and not url.endswith((".html", ".htm"))
        if not is_page or "?" in url:
            yield from filter(None, [self.head(url)])
            return
        with ThreadPoolExecutor(THREADS) as threads:
            yield from filter(None, threads.map(self.head, self._below(url, 0)))

    def pieces(self, one: Object) -> Iterator[bytes]:
        """The bytes of a file, in order.

        Raises:
            FileNotFoundError, Conflict: it is gone, or another one has taken its place.
            StorageError: it cannot be read, or is not as long as the server said.
        """
        stream, num_bytes = Stream(self._fs, one.url, version=one.etag), 0
        try:
            while data := stream.read(PART_BYTES):
                num_bytes += len(data)
                if num_bytes > one.size:
                    break
                yield data
        finally:
            stream.close()
        if num_bytes != one.size:
            than = "more" if num_bytes > one.size else f"{num_bytes:,} bytes came, not"
            raise StorageError(f"{one.url}: {than} the {one.size:,} bytes that the server told")

    def stream(self, url: str, *, max_sec: float | None = None) -> Stream:
        """Open a file, to read it once from its start, within `max_sec`.

        Raises:
            FileNotFoundError: there is none.
            StorageError: the server cannot be reached.
        """
        return Stream(self._fs, url, max_sec=max_sec)

    def _below(self, url: str, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH:
            raise StorageError(f"{url}: has more than {MAX_DEPTH} folders above it; name one below")
        try:
            found = retried(url, "listed", lambda: self._fs.ls(f"{url}/", detail=True))
        except FileNotFoundError:
            return
        for entry in sorted(found, key=lambda entry: str(entry["name"])):
            if entry["type"] == "directory":
                yield from self._below(entry["name"], depth + 1)
            else:
                yield entry["name"]

    def _key(self, url: str) -> str:
        return url

    def _url(self, name: str) -> str:
        return name

    def _etag(self, info: Mapping[str, Any]) -> str:
        # A server that tells neither version nor date is taken to hold what it held.
        return version_of(info)


class Pages(HTTPFileSystem):  # type: ignore[misc]
    """Lists only what stands below a folder, and says of a failure what it was.

    fsspec follows every link of a page, and takes every failure for a file that is not there.
    """

    async def _ls_real(self, url: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        session = await self.set_session()
        async with session.get(self.encode_url(url)) as answer:
            self._raise_not_found_for_status(answer, url)
            text = await answer.text(errors="replace") if answer.content_type == _PAGE else ""
            names = children(text, str(answer.url))
        found = [
            {
                "name": f"{url.rstrip('/')}/{name.rstrip('/')}",
                "size": None,
                "type": "directory" if name.endswith("/") else "file",
            }
            for name in names
        ]
        return found if detail else [entry["name"] for entry in found]

    async def _info(self, url: str, **kwargs: Any) -> dict[str, Any]:
        session = await self.set_session()
        async with session.head(self.encode_url(url), allow_redirects=True) as answer:
            if answer.status < 400 or answer.status in _PASS or answer.status >= 500:
                return self._described(answer, url)
        # Not every server is willing to tell; one that is not may give all the same.
        async with session.get(self.encode_url(url)) as answer:
            return self._described(answer, url)

    def _described(self, answer: aiohttp.ClientResponse, url: str) -> dict[str, Any]:
        self._raise_not_found_for_status(answer, url)
        info: dict[str, Any] = {"name": url, "type": "file", "mimetype": answer.content_type}
        is_plain = answer.headers.get("Content-Encoding", "identity") in ("", "identity")
        info["size"] = answer.content_length if is_plain else None
        return {**info, **{name: answer.headers.get(name) for name in ("ETag", "Last-Modified")}}

    def _raise_not_found_for_status(self, response: aiohttp.ClientResponse, url: str) -> None:
        if response.status in (404, 410):
            raise FileNotFoundError(url)
        response.raise_for_status()
        if response.status >= 300:
            # One that leads on has been followed.
            raise aiohttp.ClientResponseError(
                response.request_info, response.history, status=response.status, message="leads on"
            )


class Stream:
    """A file as it comes; where it breaks off, the rest is asked for."""

    def __init__(
        self,
        file_system: Pages,
        url: str,
        *,
        version: str | None = None,
        max_sec: float | None = None,
    ) -> None:
        self._fs = file_system
        self._url = url
        self._version = version
        self._deadline_sec = None if max_sec is None else time.monotonic() + max_sec
        self._position = 0
        self._is_encoded = False
        self._answer: aiohttp.ClientResponse | None = None
        retried(url, "opened", self._open)

    def read(self, num_bytes: int) -> bytes:
        """Read what has arrived, at most `num_bytes`; nothing at the end.

        Raises:
            FileNotFoundError, Conflict: it is gone, or another one has taken its place.
            StorageError: it cannot be read.
        """
        data = retried(self._url, "read", lambda: self._some(num_bytes))
        self._position += len(data)
        return data

    def close(self) -> None:
        """End the connection."""
        if self._answer is not None:
            self._fs.loop.call_soon_threadsafe(self._answer.close)
            self._answer = None

    def _some(self, num_bytes: int) -> bytes:
        self._open()
        try:
            assert self._answer is not None
            data: bytes = sync(self._fs.loop, self._answer.content.read, num_bytes)
        except BaseException:
            self.close()
            raise
        return data

    def _open(self) -> None:
        if self._answer is None:
            self._answer = sync(self._fs.loop, self._request)

    async def _request(self) -> aiohttp.ClientResponse:
        left_sec = None
        if self._deadline_sec is not None:
            left_sec = self._deadline_sec - time.monotonic()
            if left_sec <= 0:
                raise LateError("timed out")
        # What the server has packed is counted unpacked, so that it must begin anew.
        by_range = self._position > 0 and not self._is_encoded
        headers = {"Range": f"bytes={self._position}-"} if by_range else {}
        session = await self._fs.set_session()
        answer: aiohttp.ClientResponse = await session.get(
            self._fs.encode_url(self._url), headers=headers, timeout=timeout(left_sec)
        )
        try:
            self._fs._raise_not_found_for_status(answer, self._url)
            self._check_version(answer)
            self._is_encoded = "Content-Encoding" in answer.headers
            start = answer.headers.get("Content-Range", "").removeprefix("bytes ").split("-")[0]
            goes_on = answer.status == 206 and start == str(self._position)
            left = 0 if goes_on else self._position
            while left:
                data = await answer.content.read(min(left, PART_BYTES))
                if not data:
                    raise ConnectionError("it is shorter now")
                left -= len(data)
        except BaseException:
            answer.close()
            raise
        return answer

    def _check_version(self, answer: aiohttp.ClientResponse) -> None:
        found = version_of(answer.headers)
        if self._version is None:
            self._version = found
        if "-" not in (found, self._version) and found != self._version:
            raise Conflict(f"{self._url}: somebody else has written it meanwhile")


def timeout(total_sec: float | None = None) -> aiohttp.ClientTimeout:
    """For how long a connection may say nothing; large files take their time."""
    return aiohttp.ClientTimeout(total=total_sec, sock_connect=CONNECT_SEC, sock_read=STALL_SEC)


def version_of(about: Mapping[str, Any]) -> str:
    """What changes with the content of a file, of its headers; `-` if the server tells nothing."""
    told = [about[name] for name in ("ETag", *TIMES) if about.get(name)]
    return str(told[0]).strip('"') if told else "-"


def children(page: str, address: str) -> list[str]:
    """Names of the files and folders right below a folder, of its page; folders end in `/`.

    Links to other places, and those that sort the page, are none.
    """
    parser = _Links()
    parser.feed(page)
    base = address.partition("?")[0].partition("#")[0].rstrip("/") + "/"
    found = set()
    for link in parser.links:
        try:
            target = urlsplit(urljoin(base, link))
        except ValueError:
            continue
        where = f"//{target.netloc}{target.path}"
        below = "//" + base.partition("://")[2]
        name = where.removeprefix(below)
        if target.query or not where.startswith(below) or not name.strip("/"):
            continue
        if "/" not in name.rstrip("/") and name.rstrip("/") not in (".", ".."):
            found.add(name.rstrip("/") + "/" * name.endswith("/"))
    return sorted(found)


class _Links(html.parser.HTMLParser):
    """The addresses of the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if (tag, name) == ("a", "href") and value]
