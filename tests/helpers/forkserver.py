"""Real `a2s` processes that start in milliseconds.

A server process imports torch and other slow packages once, and forks a child for every call. The
child has its own environment, working folder, output files, signals and exit code. Tests of imports
or start-up time use `subprocess` instead.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import held

PRELOADED = ["torch", "torch._dynamo", "torchvision.models", "accelerate", "cv2", "pyarrow.dataset"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*PRELOADED, "forkserver"])


class Process:
    """The part of `subprocess.Popen` that the tests use; output is collected in files.

    `hold_at`: the end of a path, with wildcards; when the process has written such a file it waits.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        env: dict[str, str],
        cwd: Path | None = None,
        hold_at: str = "",
    ) -> None:
        self.args = arguments
        self._folder = Path(tempfile.mkdtemp(prefix="a2s-process-"))
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        if hold_at:
            env = {**env, **held.variables(hold_at, self._folder)}
        outputs = [str(self._folder / name) for name in ("stdout", "stderr")]
        self._process = _context.Process(
            target=_main, args=(arguments, env, str(cwd or Path.cwd()), outputs)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal's number when one ended it, None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """As `returncode`."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises: TimeoutExpired, as Popen does.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end; return stdout and stderr."""
        self.wait(timeout)
        return (self._folder / "stdout").read_text(), (self._folder / "stderr").read_text()

    def wait_until_held(self) -> None:
        """Wait until it has written the file at which it is held."""
        held.wait_until_held(self, self._folder)

    def release(self, *, for_good: bool = False) -> None:
        """Let it go on, until it writes such a file again; or to its end."""
        if for_good:
            (self._folder / held.FREE).touch()
        (self._folder / "held").unlink()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL if it still runs."""
        self.send_signal(signal.SIGKILL)


def _main(arguments: list[str], env: dict[str, str], cwd: str, outputs: list[str]) -> None:
    """In the child: become `python -m a2s ARGUMENTS`."""
    for number, path in enumerate(outputs, start=1):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), number)
    # The streams and handlers that a fresh interpreter would have.
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    tempfile.tempdir = None
    os.chdir(cwd)
    sys.argv = ["a2s", *arguments]

    held.install()
    from a2s.__main__ import main

    main()
