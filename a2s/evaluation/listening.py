"""Run a web application at an address until it is interrupted."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from a2s.errors import ConfigError

GRACE_SEC = 30
"""How long answers in flight may take after Ctrl-C or SIGTERM."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def open_socket(command: str, host: str, port: int) -> socket.socket:
    """Listen at an address.

    Raises:
        ConfigError: the port is taken or forbidden, or the machine has no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"{command}: {host} is no address of this machine") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"{command}: port {port} of {host} is in use; stop what listens there, or give "
                "another --port (0 takes any that is free)"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"{command}: {host} is no address of this machine") from None
        raise ConfigError(
            f"{command}: cannot listen at port {port} of {host} ({error.strerror})"
        ) from None
    return listener


def listen(app: ASGIApp, listener: socket.socket, *, started: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C, then finish the answers in flight; close the socket."""
    settings = uvicorn.Config(
        app,
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SEC,
        limit_concurrency=256,
        h11_max_incomplete_event_size=65_536,
    )
    with listener, contextlib.suppress(KeyboardInterrupt):
        # It raises the interrupt again when it has ended.
        _Server(settings, started).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that says when it answers; from then on it handles signals, too."""

    def __init__(self, settings: uvicorn.Config, say: Callable[[], None]) -> None:
        super().__init__(settings)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if self.started:
            self._say()


def only_for(app: ASGIApp, hosts: frozenset[str]) -> ASGIApp:
    """Refuse requests that call the service by another name; names are without port."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        headers: Mapping[bytes, bytes] = dict(scope.get("headers", ()))
        host = headers.get(b"host", b"").decode("latin-1")
        if scope["type"] == "http" and host.rsplit(":", 1)[0] not in hosts:
            answer = JSONResponse({"error": f"this service answers at {sorted(hosts)}"}, 403)
            await answer(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded
