"""Parts of a training step that never wait for the device: deferred metrics, compilation, copies.

A GPU works through a queue of kernels; a loop that reads a number at every step lets the queue run
empty. So the device itself skips the update of a step that is not finite, and the host reads the
losses at the next log line or commit, where the run ends. The same code runs on a CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from a2s.data.batch import Batch
from a2s.errors import A2SError, ConfigError
from a2s.parallel import ranks
from a2s.storage import files

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Step:
    """One optimizer step of an epoch, and what is due after it."""

    epoch: int
    number: int
    """Position in the epoch, from 1."""
    batch: Batch
    """This rank's images, on the CPU."""
    rows_G: npt.NDArray[np.int64]
    """Index rows of the global batch; -1 is padding."""
    is_last: bool
    """Whether the epoch ends with it."""
    logs: bool
    """Whether a log line is due."""
    commits: bool
    """Whether a commit is due."""

    @property
    def num_images(self) -> int:
        """Images of the global batch."""
        return int((self.rows_G >= 0).sum())

    @property
    def reads_losses(self) -> bool:
        """Whether the host reads the losses that the device holds."""
        return self.logs or self.commits


class DeferredMetrics:
    """Numbers of each step since the last reading; they stay on the device until they are read."""

    def __init__(self) -> None:
        self._steps: list[int] = []
        self._values: list[Tensor] = []

    def add(self, step: int, values: Tensor) -> None:
        """Keep a step's numbers, of the same shape at every step."""
        self._steps.append(step)
        self._values.append(values.detach())

    def read(self) -> list[tuple[int, Tensor]]:
        """Wait for the device; return (step, numbers on the CPU) of every step and forget them."""
        if not self._steps:
            return []
        with ranks.waiting():
            values = torch.stack(self._values).cpu()
        read = list(zip(self._steps, values, strict=True))
        self._steps, self._values = [], []
        return read


def compiled(
    function: Callable[P, R], device: torch.device, *, replayed: bool = False
) -> Callable[P, R]:
    """Compile a network's `forward` or a loss, for the one shape that training has.

    It takes functions, because a compiled module renames its tensors. `replayed` captures a CUDA
    graph and replays it, so that the host does not launch kernel after kernel; the next call
    overwrites its results.

    Raises:
        ConfigError: several ranks; on CPUs the compiled backward pass of the detector fails, on
            GPUs DDP cuts the graph into pieces.
    """
    if ranks.world() > 1:
        raise ConfigError("compile: works with one process; leave --compile out, or start one")
    # fp32 is exact here; torch would warn at every start that TF32 is faster.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    graphs = replayed and device.type == "cuda"
    return torch.compile(function, dynamic=False, options={"triton.cudagraphs": graphs})


def accumulate_gradients(
    accelerator: ranks.Accelerator, network: nn.Module, parts: Sequence[slice]
) -> Iterator[slice]:
    """Gradient accumulation: yield the parts of a batch; DDP reduces gradients in the last one."""
    for part in parts:
        with nullcontext() if part is parts[-1] else accelerator.no_sync(network):
            yield part


def copy_to_host(tensor: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Start an asynchronous copy to the host; returns it, and a function that waits for it."""
    if tensor.device.type == "cpu":
        return tensor, lambda: None
    # Into pinned memory: only then does the copy overlap with kernels.
    host = tensor.to("cpu", non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    done.record()
    return host, done.synchronize


def stop_not_finite(job: str, out: Path, where: str, *, bad: list[str], batch: list[str]) -> None:
    """End all ranks, and list the images of the batch and those whose loss is not finite.

    There is none of the latter where only a gradient, or a sum of finite losses, has overflowed.

    Raises:
        A2SError: always, on all ranks (one message).
    """
    path = out / "nonfinite" / f"{where.replace(' ', '-')}.json"
    with ranks.fail_together():
        if ranks.is_main():
            path.parent.mkdir(exist_ok=True)
            files.write_json(path, {"not_finite": bad, "batch": batch})
        found = f"the loss is not finite at {where}; images: {', '.join(bad)}"
        if not bad:
            found = f"a gradient or a sum is not finite at {where}, though each image's loss is"
        raise A2SError(
            f"{job}: {found} (batch in {path}). "
            "Weights were not updated. Try a lower --lr or --precision fp32"
        )
