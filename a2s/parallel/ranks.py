"""Training ranks: launch checks, start, collectives, joint failure. Only importer of accelerate.

Training runs the same code on one rank and on many. This module holds the differences: which rank
writes output, sums over ranks, and how a failure on one rank ends all ranks with one message.
"""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from a2s.errors import A2SError, ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator as Accelerator
    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

TIMEOUT_SEC = 1800
before_exit: list[Callable[[], None]] = []
"""Callbacks that block until this rank's pending writes finish; they must not raise."""
CPU_COMMAND = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1 "
    "--mixed_precision no --dynamo_backend no -m a2s …"
)
GPU_COMMAND = "accelerate launch --multi_gpu --num_processes N -m a2s …"
TORCHRUN_COMMAND = "torchrun --nproc_per_node N -m a2s …"


def check_launch(environ: Mapping[str, str]) -> None:
    """Refuse a launch that would silently train independent single processes.

    Raises:
        ConfigError: MASTER_ADDR is set but WORLD_SIZE is not, as after
            `accelerate launch --cpu --num_processes 2`; or RANK does not fit WORLD_SIZE.
    """
    if "MASTER_ADDR" in environ and "WORLD_SIZE" not in environ:
        raise ConfigError(
            "launch: MASTER_ADDR is set but WORLD_SIZE is not, so this would be one process on its "
            "own (`accelerate launch --cpu --num_processes N` starts only one). On CPU use\n"
            f"  {CPU_COMMAND}\nor\n  {TORCHRUN_COMMAND}\n"
            "For one process, unset MASTER_ADDR."
        )
    world, rank = environ.get("WORLD_SIZE", "1"), environ.get("RANK", "0")
    if not world.isdigit() or not rank.isdigit() or not 0 <= int(rank) < int(world):
        raise ConfigError(f"launch: RANK={rank} does not fit WORLD_SIZE={world}")


def launched_rank(environ: Mapping[str, str]) -> int:
    """This process's rank as set by the launcher; needs no torch."""
    return int(environ.get("RANK", "0"))


def cpu_requested(environ: Mapping[str, str]) -> bool:
    """Whether Accelerate's variable ACCELERATE_USE_CPU forces training on the CPU."""
    return environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes", "y", "on"}


def start(
    *,
    precision: str = "fp32",
    trackers: tuple[str, ...] = (),
    tracker_dir: Path | None = None,
    timeout_sec: int = TIMEOUT_SEC,
) -> Accelerator:
    """Join the process group that the launcher set up; a single rank without a launcher.

    The device is CUDA if available and `ACCELERATE_USE_CPU` is not set, else the CPU.

    Raises:
        ConfigError: `check_launch` refuses the launch, the world size differs from WORLD_SIZE, or
            a requested tracker is not installed.
    """
    check_launch(os.environ)
    _check_trackers(trackers)
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    # Accelerate keeps the precision of a stage that ran earlier in this process.
    AcceleratorState._reset_state()
    cpu = cpu_requested(os.environ) or not torch.cuda.is_available()
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if cpu and expected > 1 and "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(expected)))
        os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // local))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if not cpu:
        # Input shapes are constant, so searching for the fastest kernel pays off. No TF32 in fp32.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # Leave the cores to the loader's workers; this process computes little on the CPU.
        torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if precision == "bf16" else "no",
        log_with=list(trackers) or None,
        project_dir=str(tracker_dir) if tracker_dir else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_sec))],
    )
    if accelerator.num_processes != expected:
        raise ConfigError(
            f"launch: WORLD_SIZE is {expected} but {accelerator.num_processes} process(es) joined. "
            f"On GPUs use\n  {GPU_COMMAND}\non CPU\n  {CPU_COMMAND}\nor\n  {TORCHRUN_COMMAND}"
        )
    return accelerator


def _check_trackers(trackers: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed; Accelerate would only warn."""
    if not trackers:
        return
    from accelerate.tracking import get_available_trackers

    available = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    missing = [name for name in trackers if name not in available]
    if missing:
        raise ConfigError(
            f"tracker: {', '.join(missing)} is not installed; "
            f"`pip install 'a2s[{','.join(missing)}]'`, or leave out --tracker (metrics.jsonl is "
            "always written)"
        )


def _is_started() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank; 0 without a process group."""
    import torch.distributed as dist

    return dist.get_rank() if _is_started() else 0


def world() -> int:
    """Number of ranks; 1 without a process group."""
    import torch.distributed as dist

    return dist.get_world_size() if _is_started() else 1


def is_main() -> bool:
    """Whether this is rank 0, which claims the output folder, writes files and prints messages."""
    return rank() == 0


def all_gather(tensor: Tensor) -> Tensor:
    """Gather a tensor from every rank, stacked in rank order; no gradient.

    Shape: `[…] -> [world, …]`, the same shape on every rank.
    """
    import torch
    import torch.distributed as dist

    local = tensor.detach().contiguous()
    if world() == 1:
        return local[None]
    if dist.get_backend() == "nccl":
        local = local.cuda()
    parts = [torch.empty_like(local) for _ in range(world())]
    dist.all_gather(parts, local)
    return torch.stack(parts).to(tensor.device)


def all_sum(tensor: Tensor) -> Tensor:
    """Sum over ranks in float64 and in rank order, so that the result is reproducible bit by bit.

    Shape: that of `tensor`; float64 for floating input, else int64. No gradient.
    """
    import torch

    wide = tensor.detach().to(torch.float64 if tensor.is_floating_point() else torch.int64)
    parts = all_gather(wide)
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def check_same(what: str, value: str) -> None:
    """Check that `value` (a fingerprint, a commit number) is the same on every rank.

    Raises:
        ConfigError: on all ranks (one message); it names the first rank that differs.
    """
    import torch

    from a2s.storage.hashing import key_hash

    hashes = all_gather(torch.tensor([key_hash(value)])).flatten()
    different = (hashes != hashes[0]).nonzero().flatten().tolist()
    with fail_together():
        if different and is_main():
            raise ConfigError(
                f"{what}: rank {different[0]} read something else than rank 0 ({value}). All ranks "
                "must read the same --data, --out and weights through a shared file system."
            )


@contextmanager
def fail_together() -> Iterator[None]:
    """If any rank raises inside the block, all ranks exit with one error message.

    The lowest failing rank raises its own error; the others exit silently with the same exit code.
    So no rank hangs in a collective. Before any rank exits, all run the callbacks in `before_exit`.
    """
    import torch

    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    code = 0 if error is None else 2 if isinstance(error, A2SError) else 1
    codes = all_gather(torch.tensor([code])).flatten().tolist()
    first = next((index for index, value in enumerate(codes) if value), None)
    if first is None:
        return
    # A launcher kills all ranks when the first one exits.
    for finish in before_exit:
        finish()
    all_gather(torch.tensor([code]))
    if error is not None and first == rank():
        raise error
    raise SystemExit(int(codes[first])) from None


def report_to_launcher(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for a rank's main function.

    Reports the traceback of a bug to the launcher; destroys the process group on success.
    """
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        handler = get_error_handler()
        handler.initialize()
        try:
            result = function(*args, **kwargs)
            _destroy_process_group()
            return result
        except A2SError:
            # The caller prints these as one line, without a traceback.
            raise
        except Exception as error:
            if "TORCHELASTIC_ERROR_FILE" in os.environ:
                handler.record_exception(error)
            raise

    return wrapped


def _destroy_process_group() -> None:
    """Free the wrapped network, then destroy the process group that it uses.

    In the other order, freeing the network joins the group's threads while holding the
    interpreter's lock that they may wait for, and the rank never exits.
    """
    import torch.distributed as dist

    if _is_started():
        gc.collect()
        dist.destroy_process_group()
