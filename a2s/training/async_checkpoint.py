"""Commits that are written while training goes on: it waits for a copy of the tensors.

Checksums and a disk take longer than that, with ResNet-50 half a second or more after every epoch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from a2s.parallel import ranks
from a2s.storage import checkpoints


class AsyncCheckpointer:
    """One commit after the other, each by a thread of rank 0; a block's end waits for the last.

    So does a failure of all ranks, before any of them leaves. What goes wrong in the thread is
    raised by the next call, or at the end; if the block fails as well, it is said beside that.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> AsyncCheckpointer:
        ranks.before_exit.append(self._settle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The folder belongs to somebody else once its claim is given up.
        ranks.before_exit.remove(self._settle)
        self._thread.shutdown()
        if error is None:
            self.wait()
        elif self._pending is not None and (also := self._pending.exception()) is not None:
            print(f"a2s: the commit that was being written failed as well: {also}", file=sys.stderr)

    def begin(
        self,
        run: Path,
        number: int,
        *,
        model: dict[str, Tensor],
        metadata: dict[str, str],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
        cleaning: Callable[[], Callable[[], object]] | None = None,
    ) -> None:
        """Begin to do what `checkpoint.save` does.

        `cleaning` is called now, when nothing is being written; what it returns, once the commit is
        durable.
        """
        self.wait()
        clean = cleaning() if cleaning is not None else None
        model, optimizer = _copied(model), _copied(optimizer)

        def write() -> None:
            checkpoints.save(
                run, number, model=model, metadata=metadata, optimizer=optimizer, state=state
            )
            if clean is not None:
                clean()

        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise what went wrong so far, without waiting."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when what was begun is durable."""
        if self._pending is not None:
            self._settle()
            pending, self._pending = self._pending, None
            pending.result()

    def _settle(self) -> None:
        if self._pending is not None:
            wait([self._pending])


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which the next step does not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
