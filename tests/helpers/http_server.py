"""A command of a2s that answers HTTP, as a process of its own, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from processes import environment
from repository import REPO


class Answer(NamedTuple):
    """Status, headers (lower case) and body of an answer."""

    code: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A running server; `address` is what it printed."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "a2s", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPO,
            env=environment(),
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://([\d.]+):(\d+)\S*", line)
        if found is None:
            raise AssertionError(f"it printed {line!r} and {self.process.communicate()[1]!r}")
        self.address = found[0].rstrip(";")
        self.port = int(found[2])
        self.token = self.address.partition("token=")[2]

    def ask(
        self, path: str, body: object = None, *, method: str | None = None, **headers: str
    ) -> Answer:
        """Send a request; a body that is not bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        given = {"X-A2S-Token": self.token} if self.token else {}
        if body is not None and not isinstance(body, bytes):
            body, given["Content-Type"] = json.dumps(body).encode(), "application/json"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            how = method or ("GET" if body is None else "POST")
            connection.request(how, path, body=body, headers=given)
            reply = connection.getresponse()
            heads = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, heads, reply.read())

    def interrupt(self, number: int = signal.SIGINT) -> tuple[int, str, str]:
        """Exit code and what else it printed, after a signal."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output, errors


@contextlib.contextmanager
def serving(*arguments: object) -> Iterator[Server]:
    """Run a server; it is killed at the end if it still runs."""
    server = Server(*arguments)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.process.communicate()
