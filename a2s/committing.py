"""Commits that are written while training goes on: it waits for a copy of the tensors alone.

Checksums and a disk take longer than that, with ResNet-50 most of a second after every epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from a2s import checkpoint


class Commits:
    """One commit after the other, each by a thread of rank 0; a block's end waits for the last.

    What goes wrong in the thread is raised by the next call.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Commits:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The folder belongs to somebody else once its claim is given up.
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def begin(
        self,
        run: Path,
        number: int,
        *,
        model: dict[str, Tensor],
        metadata: dict[str, str],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
        then: Callable[[], object] | None = None,
    ) -> None:
        """Begin to do what `checkpoint.save` does, and `then` something, once it is durable."""
        self.wait()
        model, optimizer = _copied(model), _copied(optimizer)

        def write() -> None:
            checkpoint.save(
                run, number, model=model, metadata=metadata, optimizer=optimizer, state=state
            )
            if then is not None:
                then()

        self._pending = self._thread.submit(write)

    def wait(self) -> None:
        """Return when what was begun is durable."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, which the next step does not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
