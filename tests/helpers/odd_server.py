"""A web server of many habits; the first part of an address says which."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class OddServer:
    """Its address, its files by name, and what was asked: method, path and headers."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    etag: str = '"1"'
    faults_left: int = -1
    """How often a habit of `_FAULTS` shows; -1: always."""

    def count(self, method: str) -> int:
        return sum(one[0] == method for one in self.seen)


_FAULTS = {"500": "by-range", "503": "plain", "cut": "plain", "cut-range": "by-range"}
"""Habits that pass, and those that come then."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    odd: OddServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def _answer(self) -> None:
        self.odd.seen.append((self.command, self.path, dict(self.headers)))
        habit, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        if habit in _FAULTS and self.odd.faults_left == 0:
            habit = _FAULTS[habit]
        elif habit in _FAULTS and (self.command == "GET" or habit.isdigit()):
            self.odd.faults_left -= 1
        elsewhere = {
            "circle": self.path,
            "to-file": "file:///etc/passwd",
            "to-host": f"http://localhost:{self.server.server_port}/by-range/{name}",  # type: ignore[attr-defined]
            "to-nowhere": "",
        }
        if habit in elsewhere:
            self._send(302, b"", Location=elsewhere[habit])
        elif habit.isdigit():
            self._send(int(habit), b"sorry")
        elif (data := self.odd.files.get(name)) is None:
            self._send(404, b"")
        else:
            self._file(habit, data)

    do_GET = do_HEAD = _answer

    def _file(self, habit: str, data: bytes) -> None:
        if habit == "no-head" and self.command == "HEAD":
            self._send(403, b"")
        elif habit == "gzip":
            self._send(200, gzip.compress(data), Content_Encoding="gzip")
        elif habit.startswith("cut") and self.command == "GET":
            self._send(200, data[: len(data) // 2], ETag=self.odd.etag, Content_Length=len(data))
            self.close_connection = True
        elif habit == "endless" and self.command == "GET":
            self._send(200, data * 3, Content_Length=3 * len(data))
        elif habit in ("by-range", "no-head") and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").split("-")[0])
            told = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self._send(206, data[start:], ETag=self.odd.etag, Content_Range=told)
        else:
            kind = "text/html" if data.startswith(b"<html") else "application/octet-stream"
            self._send(200, data, ETag=self.odd.etag, Content_Type=kind)

    def _send(self, code: int, data: bytes, **headers: object) -> None:
        self.send_response_only(code)
        for name, value in {"Content_Length": len(data), **headers}.items():
            if value != "":
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextlib.contextmanager
def odd_server(files: dict[str, bytes]) -> Iterator[OddServer]:
    """A server of these files."""
    odd = OddServer(files=dict(files))
    handler = type("Handler", (_Handler,), {"odd": odd})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    odd.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield odd
    finally:
        server.shutdown()
        server.server_close()
