"""Training steps that never wait for the device: guarded updates, numbers read later, copies.

A GPU works through a queue; a loop that asks for a number at every step lets it run dry. So the
device itself keeps a bad step from the weights, and the host reads of it at the next log line or
commit, where the job ends. On a CPU the same code runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from a2s.errors import A2SError, ConfigError
from a2s.parallel import ranks
from a2s.storage import files

P = ParamSpec("P")
R = TypeVar("R")


class DeferredMetrics:
    """Numbers of the steps since they were last read, left on the device until then."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._values: list[Tensor] = []

    def add(self, step: int, values: Tensor) -> None:
        """Keep a step's numbers; the same shape at every step."""
        self._steps.append(step)
        self._values.append(values.detach())

    def read(self) -> list[tuple[int, Tensor]]:
        """Wait for the device, and return and forget (step, numbers on the CPU)."""
        if not self._steps:
            return []
        values = torch.stack(self._values).cpu()
        read = list(zip(self._steps, values, strict=True))
        self._steps, self._values = [], []
        return read


def compiled(
    function: Callable[P, R], device: torch.device, *, replayed: bool = False
) -> Callable[P, R]:
    """Compile a network's `forward` or a loss, for the one shape that training has.

    Functions and not modules, whose tensors would get other names. What is `replayed` a GPU records
    once and repeats from then on, so that the host need not start kernel after kernel; its results
    are overwritten by the next call.

    Raises:
        ConfigError: several ranks; on CPUs the compiled backward pass of the detector fails, on
            GPUs DDP cuts the graph into pieces.
    """
    if ranks.world() > 1:
        raise ConfigError("compile: works with one process; leave --compile out, or start one")
    # fp32 means fp32 here; torch would say at every start that TF32 is faster.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    graphs = replayed and device.type == "cuda"
    return torch.compile(function, dynamic=False, options={"triton.cudagraphs": graphs})


def accumulate(
    accelerator: ranks.Accelerator, network: nn.Module, parts: Sequence[slice]
) -> Iterator[slice]:
    """The parts of a batch in order; DDP averages gradients over ranks in the last one alone."""
    for part in parts:
        with nullcontext() if part is parts[-1] else accelerator.no_sync(network):
            yield part


def copy_to_host(tensor: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Start to copy a tensor to the host; it holds the values once the second result was called."""
    if tensor.device.type == "cpu":
        return tensor, lambda: None
    # Into pinned memory, which is what lets the copy run by itself.
    host = tensor.to("cpu", non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()
    return host, done.synchronize


def stop_not_finite(job: str, out: Path, where: str, *, bad: list[str], batch: list[str]) -> None:
    """End all ranks; the images of the batch, and those to blame, are written down.

    Raises:
        A2SError: always, on all ranks (one message).
    """
    path = out / "nonfinite" / f"{where.replace(' ', '-')}.json"
    with ranks.fail_together():
        if ranks.is_main():
            path.parent.mkdir(exist_ok=True)
            files.write_json(path, {"not_finite": bad, "batch": batch})
        names = ", ".join(bad) or "none (the sum overflowed)"
        raise A2SError(
            f"{job}: the loss is not finite at {where}; images: {names} (batch in {path}). "
            "Weights were not updated. Try a lower --lr or --precision fp32"
        )
