"""Asynchronous checkpointing: training blocks only while tensors are copied to host memory.

A thread computes checksums and writes the files, which with ResNet-50 takes half a second or more.
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
    """Writes one commit at a time, in a thread of rank 0. Use it as a context manager.

    The end of the `with` block waits for the last commit, and so does `ranks.fail_together` before
    any rank exits. The next call, or the end of the block, raises an error of the thread. If the
    block fails as well, both errors are printed.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> AsyncCheckpointer:
        ranks.before_exit.append(self._wait_quietly)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After this block another process may claim the folder, so nothing may be left to write.
        ranks.before_exit.remove(self._wait_quietly)
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
        list_stale: Callable[[], Callable[[], object]] | None = None,
    ) -> None:
        """Start what `checkpoints.save` does; returns when the tensors are copied.

        `list_stale()` is called now, while no commit is being written. It lists stale files and
        returns a function that deletes them; the thread calls it once the new commit is durable.
        """
        self.wait()
        clean = list_stale() if list_stale is not None else None
        model, optimizer = _host_copies(model), _host_copies(optimizer)

        def write() -> None:
            checkpoints.save(
                run, number, model=model, metadata=metadata, optimizer=optimizer, state=state
            )
            if clean is not None:
                clean()

        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise the error of a commit that has failed by now; do not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last commit is durable."""
        if self._pending is not None:
            self._wait_quietly()
            pending, self._pending = self._pending, None
            pending.result()

    def _wait_quietly(self) -> None:
        if self._pending is not None:
            wait([self._pending])


def _host_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in host memory, which the next step does not overwrite."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
