"""A proxy in front of an object store that does what networks and busy stores do."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "500",
    "501",
    "503",
    "400",
    "403",
    "301",
    "stall",
    "slow",
    "cut",
    "lost request",
    "lost answer",
    "not stored",
    "circle",
    "no store",
]
_ERRORS = {
    **{"500": "InternalError", "501": "NotImplemented", "503": "SlowDown"},
    **{"400": "ExpiredToken", "403": "AccessDenied", "301": "PermanentRedirect"},
}
_XML = "<?xml version='1.0'?><Error><Code>{}</Code><Message>injected</Message></Error>"


@dataclass
class Fault:
    """What happens to the next `times` requests of a method whose path holds a text."""

    kind: Kind
    method: str = ""
    path: str = ""
    times: int = 1


@dataclass
class Proxy:
    """Its address, the faults that are still to come, and what was asked."""

    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], None] | None = None
    """Called with the method and path of every request, before it is passed on."""
    stall_sec: float = 5.0
    is_closed: bool = False

    def next_fault(self, method: str, path: str) -> Kind | None:
        self.requests.append((method, path))
        for fault in self.faults:
            if fault.times and fault.method in ("", method) and fault.path in path:
                fault.times -= 1
                return fault.kind
        return None

    def count(self, method: str, path: str) -> int:
        """Number of requests of a method whose path holds a text."""
        return sum(one == method and path in where for one, where in self.requests)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    target: str

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            # The client has given up.
            self.close_connection = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.proxy.before is not None:
            self.proxy.before(self.command, self.path)
        kind = self.proxy.next_fault(self.command, self.path)
        if kind in _ERRORS:
            where = {"x-amz-bucket-region": "eu-west-1"} if kind == "301" else {}
            self._send(int(kind), where, _XML.format(_ERRORS[kind]).encode())
            return
        if kind == "circle":
            self._send(307, {"Location": self.path}, b"")
            return
        if kind == "no store":
            self._send(200, {}, b"<html>hello</html>")
            return
        if kind == "stall":
            time.sleep(self.proxy.stall_sec)
            if self.proxy.is_closed:
                self._cut()
                return
        if kind == "lost request":
            self._cut()
            return
        if kind == "not stored":
            self._send(200, {"ETag": '"0123456789abcdef0123456789abcdef"'}, b"")
            return
        connection = http.client.HTTPConnection(self.target, timeout=60)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, dict(self.headers))
            found = connection.getresponse()
            data = found.read()
        headers = {k: v for k, v in found.getheaders() if k.lower() != "transfer-encoding"}
        if kind == "lost answer":
            self._cut()
            return
        self._send(found.status, headers, data, kind)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer

    def _send(
        self, status: int, headers: dict[str, str], data: bytes, kind: Kind | None = None
    ) -> None:
        self.send_response_only(status)
        names = {name.lower() for name in headers}
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in names:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "cut":
            self.wfile.write(data[: len(data) // 2])
            self._cut()
        elif kind == "slow":
            for byte in data:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.2)
        else:
            self.wfile.write(data)

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)


@contextlib.contextmanager
def proxy_to(address: str) -> Iterator[Proxy]:
    """A proxy to the store at `host:port`."""
    proxy = Proxy()
    handler = type("Handler", (_Handler,), {"proxy": proxy, "target": address})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.is_closed = True
        server.shutdown()
        server.server_close()
