"""Processes of a job of `soak.py`: started, found by a mark, killed; and the Ray cluster they join.

All end with the soak itself, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from soak_jobs import GROUP, INT, MAIN, RAYLET, TERM, TITLES, Job

MARK = "A2S_SOAK_ID"
"""Environment variable by which the processes of a job are found."""
_PR_SET_PDEATHSIG = 1
_STORE_BYTES = 80 * 2**20
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def start(job: Job, folder: Path, *, address: str = "") -> tuple[subprocess.Popen[str], str]:
    """Start a job in a folder; return it and the mark of its processes."""
    mark = uuid.uuid4().hex
    here = Path(__file__).parent
    first, *rest = job.arguments
    script = [str(here / first)] if first.endswith(".py") else [first]
    joins = ["--ray-address", address] if address else []
    environ = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with (folder / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *script, *rest, *joins],
            cwd=folder,
            env=environ,
            stdout=subprocess.DEVNULL,
            # A file: a pipe would stay open while an orphan lives.
            stderr=errors,
            start_new_session=True,
            text=True,
            preexec_fn=_die_with_parent,
        )
    return process, mark


def marked(mark: str) -> dict[int, bytes]:
    """Command lines of the running processes that have inherited a mark."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if f"{MARK}={mark}".encode() not in (entry / "environ").read_bytes():
                continue
            if (entry / "stat").read_text().rsplit(") ", 1)[1][0] not in "ZX":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
    return found


def kill(process: subprocess.Popen[str], victim: str, marks: Sequence[str]) -> bool:
    """Kill; return whether there was somebody to kill."""
    if victim in TITLES:
        running = [item for mark in marks for item in marked(mark).items()]
        pids = [pid for pid, title in running if is_of(title, victim)]
        kill_all(pids[:1])
        return bool(pids)
    if victim == GROUP:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        by = {MAIN: signal.SIGKILL, TERM: signal.SIGTERM, INT: signal.SIGINT}
        process.send_signal(by[victim])
    return True


def is_of(title: bytes, victim: str) -> bool:
    """Whether a command line is that of such a process."""
    return any(word in title for word in TITLES[victim])


def kill_all(pids: Sequence[int]) -> None:
    """Kill these processes, where they still run."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class RayCluster:
    """A cluster of one node, with a GPU that is only alleged; started when it is needed."""

    def __init__(self) -> None:
        self.mark = ""
        self._cluster: Any = None

    def address(self) -> str:
        """Where it listens; it is started again if its raylet was killed."""
        if self.mark and any(is_of(title, RAYLET) for title in marked(self.mark).values()):
            return str(self._cluster.address)
        self.end()
        from ray.cluster_utils import Cluster

        from a2s.parallel import ray_session

        ray_session.create_private_token()
        self.mark = uuid.uuid4().hex
        # Workers import a2s and its settings from where the soak does.
        os.environ.update({MARK: self.mark, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
        try:
            resources = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": _STORE_BYTES}
            self._cluster = Cluster(initialize_head=True, head_node_args=resources)
        finally:
            del os.environ[MARK]
        return str(self._cluster.address)

    def end(self) -> None:
        """Kill all its processes."""
        if self.mark:
            kill_all(list(marked(self.mark)))
            with contextlib.suppress(Exception):  # Ray's own, about a node that is dead already.
                self._cluster.shutdown()
            self.mark = ""
