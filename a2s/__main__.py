"""The command line: `a2s COMMAND …`, or `accelerate launch -m a2s COMMAND …` to train."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO

from a2s import __version__
from a2s.config.registry import COMMANDS
from a2s.errors import A2SError
from a2s.storage import machine, places, processes
from a2s.storage.lock import TAKEOVER
from a2s.storage.objects.urls import shown
from a2s.storage.parsing import printable

_MACHINE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.EBUSY, errno.ENOMEM),
    *(errno.EMFILE, errno.ENFILE, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTEMPTY),
    *(errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
}
"""Storage that is full, read-only, forbidden, or gone, or fails, or files that somebody moves
meanwhile: no bug of a2s."""


QUIET_FLAG = "--quiet"
QUIET = "A2S_QUIET"
TAKEOVER_FLAG = "--takeover"
"""Environment variable, so that the ranks and workers that a command starts are quiet too."""


class PlainText:
    """A text stream that escapes control characters, so that no file name commands a terminal.

    Folders of object stores have their URL, not the path that stands for it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; line breaks, returns and tabs stay."""
        return self._stream.write(printable(shown(text), keep_breaks=True))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Escape what the block prints."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(PlainText, streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def complain(text: str) -> None:
    """Print one line of error."""
    print(f"a2s: {printable(shown(text))}", file=sys.stderr)


def usage() -> str:
    """The top-level help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: a2s COMMAND [options]        a2s help COMMAND for its options",
            "",
            *lines,
            "",
            "Flags win over --config FILE (YAML, one section per command), the file over defaults.",
            "--quiet prints errors only. --takeover continues in a folder whose lock is held by a",
            "process that hangs or is lost. -V, --version prints the version.",
            "Training on several devices: accelerate launch -m a2s stage1 …",
            "Exit codes: 0 done, 1 bug, 2 your input, settings or machine, 3 done but too many",
            "failures, 130 interrupted, 143 terminated, 138 ended by SIGUSR1.",
        ]
    )


def open_streams() -> None:
    """Give this process the standard streams that whoever started it has closed.

    Else the next file that is opened would get what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    if not {QUIET_FLAG, "-q"}.isdisjoint(arguments):
        arguments = [argument for argument in arguments if argument not in (QUIET_FLAG, "-q")]
        os.environ[QUIET] = "1"
    if TAKEOVER_FLAG in arguments:
        arguments = [argument for argument in arguments if argument != TAKEOVER_FLAG]
        os.environ[TAKEOVER] = "1"
    if not arguments or arguments[0] in ("-h", "--help") or arguments == ["help"]:
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"a2s {__version__}")
        return 0
    if arguments[0] == "help":
        arguments = [arguments[1], "--help"]
    command = arguments[0]
    if command not in COMMANDS:
        from a2s.config.parse import nearest

        complain(f"no command {command!r}{nearest(command, COMMANDS)}")
        return 2
    from a2s.config.parse import parse
    from a2s.storage.objects.session import session

    config = parse(command, arguments[1:])
    with plain_output(), contextlib.ExitStack() as stack:
        module = importlib.import_module(f"a2s.commands.{COMMANDS[command].module}")
        if os.environ.get(QUIET):
            # Summaries; progress asks the variable itself. Errors are on standard error.
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if check := getattr(module, "check_start", None):
            check()
        code: int = module.run(stack.enter_context(session(command, config)))
    return code


def main() -> None:
    """Entry point: errors that a user can act on are one line and exit code 2."""
    open_streams()
    machine.choose_threads(os.environ)
    places.replace_caches(os.environ)
    processes.is_command = True
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _terminated)
    # Objects that modules create on import live to the end. Collecting garbage among them, again
    # and again and once more at exit, takes a third of the time that a command starts and stops.
    gc.set_threshold(5_000)
    try:
        code = run(sys.argv[1:])
    except A2SError as error:
        complain(str(error))
        code = 2
    except KeyboardInterrupt:
        complain("interrupted; the same command again resumes")
        code = 130
    except BrokenPipeError:
        # Whoever read our output is gone; avoid a second error at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except MemoryError:
        complain("out of memory; the same command resumes, with fewer --workers if it takes them")
        code = 2
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        complain(f"{where}{error.strerror}; nothing is half written, the same command resumes")
        code = 2
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    main()
