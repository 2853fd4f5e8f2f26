"""Progress output: a bar on a terminal, otherwise one line per interval."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from tqdm import tqdm

INTERVAL_SEC = 10.0
_STEP = "A2S_IS_STEP"
"""Variable that says, also to ranks, that another command called this one."""


def _is_quiet() -> bool:
    """Whether `a2s --quiet` asked for errors only."""
    return bool(os.environ.get("A2S_QUIET"))


def _has_room_for_a_bar() -> bool:
    """Whether stderr is a terminal that knows its width; some report 0 columns, as in containers.

    In 0 columns tqdm would draw nothing.
    """
    if not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False


class Progress:
    """Progress of a job in `unit`s, on stderr; `total` None means unknown."""

    def __init__(self, total: int | None, *, unit: str, name: str, done: int = 0) -> None:
        self.total = total
        self.unit = unit
        self.name = name
        self.done = done
        self.fields: dict[str, object] = {}
        self._initial = done
        self._start = self._last = time.monotonic()
        self._shown: tuple[int, dict[str, object]] | None = None
        """What the last line said."""
        self._bar = (
            tqdm(total=total, initial=done, unit=unit, desc=name, dynamic_ncols=True)
            if _has_room_for_a_bar() and not _is_quiet()
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self._shown != (self.done, self.fields):
            self._line()

    def update(self, count: int = 1, **fields: object) -> None:
        """Add finished units; `fields` are shown after the rate (include units in their names)."""
        self.done += count
        self.fields.update(fields)
        if self._bar is not None:
            self._bar.update(count)
            if self.fields:
                self._bar.set_postfix(self.fields, refresh=False)
        elif time.monotonic() - self._last >= INTERVAL_SEC:
            self._line()

    def note(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(f"{self.name}: {text}", file=sys.stderr)
        else:
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def _line(self) -> None:
        if _is_quiet():
            return
        self._last = time.monotonic()
        self._shown = self.done, dict(self.fields)
        elapsed = max(self._last - self._start, 1e-9)
        rate = (self.done - self._initial) / elapsed
        share = "" if not self.total else f" of {self.total:,} ({self.done / self.total:.1%})"
        left = ""
        if self.total and rate > 0 and self.done < self.total:
            left = f", {(self.total - self.done) / rate:.0f} s left"
        extra = "".join(f", {name} {value}" for name, value in self.fields.items())
        print(
            f"{self.name}: {self.done:,}{share} {self.unit}, {rate:.2f} {self.unit}/s{left}{extra}",
            file=sys.stderr,
            flush=True,
        )


def say_error(text: str) -> None:
    """Tell people what failed, also those who asked for quiet."""
    print(text, file=sys.stderr, flush=True)


def say(text: str) -> None:
    """Tell people, on standard error, unless they asked for quiet."""
    if not _is_quiet():
        print(text, file=sys.stderr, flush=True)


def say_next(words: str) -> None:
    """Print the next command, unless another command called this one and goes on by itself."""
    if not os.environ.get(_STEP):
        print(f"next: {words}")


@contextmanager
def as_step() -> Iterator[None]:
    """Call a command as a step of another one."""
    is_outermost = _STEP not in os.environ
    os.environ[_STEP] = "1"
    try:
        yield
    finally:
        if is_outermost:
            del os.environ[_STEP]
