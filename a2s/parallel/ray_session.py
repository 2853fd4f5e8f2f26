"""How Ray is started here, or joined elsewhere. The module itself comes from pool.py."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from a2s.errors import ConfigError

STORE_BYTES_PER_WORKER = 8 * 2**20
STORE_BYTES_AT_LEAST = 80 * 2**20
"""Ray refuses much less. What travels is small, and a large store only grows until it is full."""
GRACE_SEC = 3.0


@contextlib.contextmanager
def sigterm_handled_by(handler: Any) -> Iterator[None]:
    """Inside the block SIGTERM goes to `handler`, and what it raises comes out as it is.

    Ray puts a handler of its own in place, and where it waits it turns every SystemExit into one
    with code 1.
    """
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    raised: list[BaseException] = []

    def remember(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except BaseException as error:
            raised.append(error)
            raise

    signal.signal(signal.SIGTERM, remember)
    try:
        yield
    except SystemExit:
        if raised:
            raise raised[0] from None
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


def start_local(ray: Any, workers: int) -> None:
    """Start Ray on this machine, joining no cluster that happens to be around."""
    private_token()
    # Workers inherit this environment: they find a2s where this process found it.
    old = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=max(STORE_BYTES_AT_LEAST, workers * STORE_BYTES_PER_WORKER),
            log_to_driver=False,
            logging_level="ERROR",
        )
    finally:
        if old is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old


def join(ray: Any, address: str) -> None:
    """Join a running cluster, on whose nodes a2s must be installed.

    Raises: ConfigError when it cannot be reached.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--ray-address {address}: cannot join: {error}") from error


def private_token() -> None:
    """Make the token without which nobody joins, readable for this user alone."""
    # Ray's ports listen on every interface; the token is what keeps others out, and Ray itself
    # writes it readable for everybody on the machine.
    token = Path.home() / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with open(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        token.chmod(0o600)


def children() -> set[int]:
    """Processes that this one has started and that still run."""
    return {pid for pid, (parent, _) in _processes().items() if parent == os.getpid()}


def descendants(roots: set[int]) -> dict[int, str]:
    """These processes and all that they started, each with its start time."""
    processes = _processes()
    found = list(roots)
    for root in found:
        found += [pid for pid, (parent, _) in processes.items() if parent == root]
    return {pid: processes[pid][1] for pid in found if pid in processes}


def end(started: dict[int, str]) -> None:
    """Kill what is left of processes that should have gone by themselves.

    When Ray is interrupted while it starts, its agents do not notice that their node is gone.
    """
    deadline = time.monotonic() + GRACE_SEC
    while True:
        now = _processes()
        left = [pid for pid, since in started.items() if now.get(pid, (0, ""))[1] == since]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid in left:
        # Only what is Ray's: a caller may have started processes of its own meanwhile.
        with contextlib.suppress(OSError):
            if b"ray" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time (in the kernel's ticks) of every process that has not ended."""
    found: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rsplit(") ", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(entry.name)] = (int(fields[1]), fields[19])
    return found
