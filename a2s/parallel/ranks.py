"""Ranks: starting them, checking them, summing over them. The only file that imports accelerate.

A training job runs the same code for one rank and for many. What differs is here: who speaks, how
sums are taken, and how one rank's failure ends all of them with one message.
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
"""What waits for something that a rank still writes, and does not fail."""
CPU_COMMAND = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1 "
    "--mixed_precision no --dynamo_backend no -m a2s …"
)
GPU_COMMAND = "accelerate launch --multi_gpu --num_processes N -m a2s …"
TORCHRUN_COMMAND = "torchrun --nproc_per_node N -m a2s …"


def check_launch(environ: Mapping[str, str]) -> None:
    """Refuse a launch that would silently train as several independent single processes.

    Raises:
        ConfigError: MASTER_ADDR is set and WORLD_SIZE is not, which is what
            `accelerate launch --cpu --num_processes 2` leaves behind; or RANK is outside the world.
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
    """This process's rank as the launcher set it, known before torch is imported."""
    return int(environ.get("RANK", "0"))


def cpu_asked_for(environ: Mapping[str, str]) -> bool:
    """Whether training shall use the CPU although there may be a GPU (Accelerate's variable)."""
    return environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes", "y", "on"}


def start(
    *,
    precision: str = "fp32",
    trackers: tuple[str, ...] = (),
    tracker_dir: Path | None = None,
    timeout_sec: int = TIMEOUT_SEC,
) -> Accelerator:
    """Join the ranks that the launcher started; one rank when none did.

    The device is CUDA when there is one and `ACCELERATE_USE_CPU` is not set, else the CPU.

    Raises:
        ConfigError: a launch that `check_launch` refuses, a world other than WORLD_SIZE, or a
            tracker that was asked for and is not installed.
    """
    check_launch(os.environ)
    _check_trackers(trackers)
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    # A stage with another precision may have run in this process; accelerate remembers it.
    AcceleratorState._reset_state()
    cpu = cpu_asked_for(os.environ) or not torch.cuda.is_available()
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if cpu and expected > 1 and "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(expected)))
        os.environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // local))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if not cpu:
        # One shape per network, so the fastest kernel is worth a search; and fp32 means fp32.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # The loader's processes have the cores, and few tensors of this one are on the CPU.
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
    """Accelerate only warns about a missing tracker; whoever asked for one wants it."""
    if not trackers:
        return
    from accelerate.tracking import get_available_trackers

    available = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    missing = [name for name in trackers if name not in available]
    if missing:
        raise ConfigError(
            f"tracker: {', '.join(missing)} is not installed; `pip install {' '.join(missing)}` or "
            "leave the tracker setting out (metrics.jsonl is always written)"
        )


def _is_started() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank; 0 when alone."""
    import torch.distributed as dist

    return dist.get_rank() if _is_started() else 0


def world() -> int:
    """Number of ranks; 1 when alone."""
    import torch.distributed as dist

    return dist.get_world_size() if _is_started() else 1


def is_main() -> bool:
    """Whether this rank claims the output folder, writes files and speaks."""
    return rank() == 0


def all_gather(tensor: Tensor) -> Tensor:
    """Every rank's tensor, stacked in rank order; no gradient.

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
    """Sum over ranks in float64, always in rank order, so that repeating it repeats every bit.

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
    """Every rank must have read the same `value` (a fingerprint, a commit number).

    Raises:
        ConfigError: on every rank (one message), naming the first rank that differs.
    """
    import torch

    from a2s.storage.hashing import key_hash

    hashes = all_gather(torch.tensor([key_hash(value)])).flatten()
    different = (hashes != hashes[0]).nonzero().flatten().tolist()
    with fail_together():
        if different and is_main():
            raise ConfigError(
                f"{what}: rank {different[0]} does not see what rank 0 sees ({value}). All ranks "
                "must read the same --data, --out and weights through a shared file system."
            )


@contextmanager
def fail_together() -> Iterator[None]:
    """Make a failure inside the block, on any rank, the failure of all ranks.

    The lowest failing rank raises its own error; the others leave silently with the same exit code,
    so the user reads one message and nobody waits in a collective for a rank that is gone. Before
    any of them leaves, all wait for what is `before_exit`.
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
    # A launcher ends all ranks when the first one leaves.
    for finish in before_exit:
        finish()
    all_gather(torch.tensor([code]))
    if error is not None and first == rank():
        raise error
    raise SystemExit(int(codes[first])) from None


def report_to_launcher(function: Callable[P, R]) -> Callable[P, R]:
    """Run a rank's work to its end: the launcher learns a bug's traceback, the group is left."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        handler = get_error_handler()
        handler.initialize()
        try:
            result = function(*args, **kwargs)
            _leave()
            return result
        except A2SError:
            # One clear line follows; a traceback would bury it.
            raise
        except Exception as error:
            if "TORCHELASTIC_ERROR_FILE" in os.environ:
                handler.record_exception(error)
            raise

    return wrapped


def _leave() -> None:
    """Leave the process group, after the wrapped network that uses it.

    In the other order freeing the network ends the group's threads while they may wait for the
    interpreter's lock, which it holds: the rank never exits.
    """
    import torch.distributed as dist

    if _is_started():
        gc.collect()
        dist.destroy_process_group()
