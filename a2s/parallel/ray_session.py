"""Start a local Ray or join a cluster, and stop it. pool.py passes the ray module in."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from a2s.errors import ConfigError, StorageError
from a2s.parallel import ray_signals
from a2s.parallel.ray_reaper import DONE
from a2s.storage import places, processes

STORE_BYTES_PER_WORKER = 8 * 2**20
STORE_BYTES_MIN = 80 * 2**20
"""Ray refuses much smaller stores. The objects are small; a larger store would only fill up."""
GRACE_SEC = 3.0
SIGNAL_SEC = 2.5
"""A main thread that waits for Ray hears of a signal within a second."""
_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""As long as the longest path of a socket of Ray below the folder for temporary files."""
_reapers: list[subprocess.Popen[bytes]] = []
MARK = "A2S_RAY_SESSION"
"""Environment variable of the processes of a session."""
RAY_DIED = (
    "Ray has died on this machine (killed, perhaps for lack of memory); the same command resumes, "
    "with --workers 0 without Ray"
)
RAYLET = b"raylet/raylet"
"""Part of the command line of Ray's server on a machine."""


@contextlib.contextmanager
def raylet_watched(mark: str) -> Iterator[None]:
    """End a command in one line if its raylet dies inside the block; Ray would, without a word.

    All other processes of the session end, too: workers would finish their tasks first. `mark` is
    what `start_local` has returned.
    """
    raylets = [pid for pid, title in _marked(mark).items() if RAYLET in title]
    if not (raylets and processes.is_command):
        yield
        return
    raylet, (reader, writer) = os.pidfd_open(raylets[0]), os.pipe()

    def watch() -> None:
        if reader in select.select([raylet, reader], [], [])[0]:
            return
        code = 2
        if number := ray_signals.wait_for_one(SIGNAL_SEC):
            # It was for all processes of the job; this one ends by itself, if Ray lets it.
            if select.select([reader], [], [], GRACE_SEC)[0]:
                return
            code = 128 + number
        else:
            print(f"a2s: {RAY_DIED}", file=sys.stderr, flush=True)
        for pid in _marked(mark):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os._exit(code)

    thread = threading.Thread(target=watch, daemon=True, name="raylet")
    thread.start()
    try:
        yield
    finally:
        os.write(writer, b"end")
        thread.join()
        for descriptor in (raylet, reader, writer):
            os.close(descriptor)


def start_local(ray: Any, workers: int) -> str:
    """Start Ray on this machine; never join a running cluster. Return the mark of its processes.

    Raises:
        ConfigError: there is no folder for its sockets.
        StorageError: it does not start.
    """
    folder = temporary_folder()
    create_private_token()
    # Ray takes another folder by itself where /dev/shm is small, but not where it is read-only.
    store = None if places.is_writable(places.SHARED_MEMORY) else str(folder.parent)
    # Workers inherit PYTHONPATH, so that they import a2s from the same place.
    old = os.environ.get("PYTHONPATH")
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, sys.path)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    mark = secrets.token_hex(16)
    _start_reaper(mark)
    os.environ[MARK] = mark
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            object_store_memory=max(STORE_BYTES_MIN, workers * STORE_BYTES_PER_WORKER),
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=str(folder),
            _plasma_directory=store,
        )
    except Exception as error:  # Ray raises Exception itself where a server of its does not start
        why = " ".join(str(error).split()).split(". ")[0]
        raise StorageError(
            f"Ray did not start on this machine ({why}); repeat the command, or give --workers 0"
        ) from error
    finally:
        del os.environ[MARK]
        if old is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = old
    return mark


def _start_reaper(mark: str) -> None:
    """Start the process that ends this session if this one is killed; it ends with this one."""
    reaper = subprocess.Popen(
        [sys.executable, "-S", "-E", str(Path(__file__).with_name("ray_reaper.py")), _entry(mark)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    # Its standard input ends when this process does.
    _reapers.append(reaper)


def end_reapers() -> None:
    """Let the reapers of this process end, after their sessions."""
    while _reapers:
        reaper = _reapers.pop()
        assert reaper.stdin is not None
        with contextlib.suppress(BrokenPipeError), reaper.stdin:
            reaper.stdin.write(DONE)
        reaper.wait()


def _entry(mark: str) -> str:
    return f"{MARK}={mark}"


def join(ray: Any, address: str) -> None:
    """Join a running cluster; a2s must be installed on its nodes.

    Raises: ConfigError if it cannot be reached.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--ray-address {address}: cannot join: {error}") from error


def temporary_folder() -> Path:
    """Folder for Ray's logs and sockets: $RAY_TMPDIR/ray, or one below $TMPDIR or /tmp.

    Raises: ConfigError if none can be written, or the paths of sockets would be too long there.
    """
    named = os.environ.get("RAY_TMPDIR")
    if not named:
        return places.for_sockets(len(_SOCKET)) / "ray"
    longest = places.SOCKET_BYTES - len(_SOCKET)
    if len(os.fsencode(named)) > longest:
        raise ConfigError(
            f"RAY_TMPDIR={named} is too long for Ray's sockets; set it to a folder of at most "
            f"{longest} bytes, or unset it"
        )
    if not places.is_writable(Path(named)):
        raise ConfigError(f"RAY_TMPDIR={named} cannot be written; set it to a folder that can")
    return Path(named) / "ray"


def create_private_token() -> None:
    """Create Ray's authentication token, readable by this user only.

    It is a file in the home folder or, where that cannot be written, in this process's environment.
    """
    # Ray's ports listen on all interfaces, so only the token keeps others out. Ray itself would
    # write it readable by all users of the machine.
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    home = places.home()
    if home is None:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    token = home / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        with open(os.open(token, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        token.chmod(0o600)


def children() -> set[int]:
    """Running child processes of this process."""
    return {pid for pid, (parent, _) in _processes().items() if parent == os.getpid()}


def descendants(roots: set[int]) -> dict[int, str]:
    """These processes and all their descendants, with start times."""
    processes = _processes()
    found = list(roots)
    for root in found:
        found += [pid for pid, (parent, _) in processes.items() if parent == root]
    return {pid: processes[pid][1] for pid in found if pid in processes}


def kill_leftovers(started: dict[int, str]) -> None:
    """Kill those Ray processes of `started` that do not exit by themselves within `GRACE_SEC`.

    If Ray is interrupted while it starts, its agents do not notice that their node has stopped.
    """
    deadline = time.monotonic() + GRACE_SEC
    while True:
        now = _processes()
        left = [pid for pid, since in started.items() if now.get(pid, (0, ""))[1] == since]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid in left:
        # Only Ray's processes: the caller may have started others meanwhile.
        with contextlib.suppress(OSError):
            if b"ray" in _command_line(pid):
                os.kill(pid, signal.SIGKILL)


def _marked(mark: str) -> dict[int, bytes]:
    """Command lines of the running processes that have inherited the mark of a session."""
    found = {}
    for pid in _processes():
        with contextlib.suppress(OSError):
            if _entry(mark).encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found[pid] = _command_line(pid)
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _processes() -> dict[int, tuple[int, str]]:
    """Parent and start time (in kernel ticks) of all processes except zombies."""
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
