"""Training ranks: start, collectives, joint failure. Only importer of accelerate.

Training runs the same code on one rank and on many. This module holds the differences: which rank
writes output, sums over ranks, and how a failure on one rank ends all ranks with one message.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2s.errors import A2SError, ConfigError
from a2s.parallel import launch, stop
from a2s.parallel.launch import CPU_COMMAND, GPU_COMMAND, TORCHRUN_COMMAND
from a2s.parallel.peers import PeerWatch
from a2s.parallel.tracker_check import check_installed
from a2s.storage.machine import num_cpus

if TYPE_CHECKING:
    from accelerate import Accelerator as Accelerator
    from torch import Tensor

TIMEOUT_SEC = 600
STORE_SEC = 10
"""How long to wait for an answer of the store of heartbeats."""
LATER_SEC = 120  # Collectives time out after the watch, which says more.
_peers: PeerWatch | None = None
_hosts: Any = None
"""A group of gloo beside NCCL's; None is the only group."""
_ends_jointly = False
before_exit: list[Callable[[], None]] = []
"""Callbacks that block until this rank's pending writes finish; they must not raise."""


def check_trackers(trackers: tuple[str, ...]) -> None:
    """Refuse a tracker that is not installed, as `check_installed`."""
    from accelerate.tracking import get_available_trackers

    check_installed(trackers, get_available_trackers())


def start(
    *,
    precision: str = "fp32",
    trackers: tuple[str, ...] = (),
    tracker_dir: Path | None = None,
    timeout_sec: int = TIMEOUT_SEC,
) -> Accelerator:
    """Join the launcher's ranks, or be the only one; CUDA, or the CPU by `ACCELERATE_USE_CPU`.

    Raises:
        ConfigError: `check_launch` refuses, too few ranks joined, or a tracker is missing.
    """
    global _ends_jointly
    launch.check_launch(os.environ)
    launch.hide_mpi(os.environ)
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    check_trackers(trackers)
    _ends_jointly = False
    # Accelerate keeps the precision of a stage that ran earlier in this process.
    AcceleratorState._reset_state()
    timeout = timedelta(seconds=timeout_sec + LATER_SEC)
    cpu = launch.cpu_requested(os.environ) or not torch.cuda.is_available()
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if cpu and expected > 1 and "OMP_NUM_THREADS" not in os.environ:
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(expected)))
        os.environ["OMP_NUM_THREADS"] = str(max(1, num_cpus() // local))
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if not cpu:
        # Shapes are constant, so searching for the fastest kernel pays off. No TF32 in fp32.
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        # Leave the cores to the loader's workers; this process computes little on the CPU.
        torch.set_num_threads(1)
    with launch.joining(os.environ):
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if precision == "bf16" else "no",
            log_with=list(trackers) or None,
            project_dir=str(tracker_dir) if tracker_dir else None,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
        )
    if accelerator.num_processes != expected:
        raise ConfigError(
            f"launch: WORLD_SIZE is {expected} but {accelerator.num_processes} process(es) joined. "
            f"On GPUs use\n  {GPU_COMMAND}\non CPU\n  {CPU_COMMAND}\nor\n  {TORCHRUN_COMMAND}"
        )
    if expected > 1:
        _watch_peers(timeout_sec)
    return accelerator


def _watch_peers(timeout_sec: float) -> None:
    """Start this rank's watch over the others; rank 0 serves the store that it needs."""
    global _peers, _hosts
    import torch
    import torch.distributed as dist

    TCPStore: Any = dist.TCPStore  # type: ignore[attr-defined]
    address, wait, store = os.environ["MASTER_ADDR"], timedelta(seconds=STORE_SEC), None
    if is_main():
        # On any free port, which the others hear of.
        store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=wait)
    port = int(all_gather(torch.tensor([store.port if store else 0]))[0])
    if store is None:
        store = TCPStore(address, port, wait_for_workers=False, timeout=wait)
    watch = PeerWatch(
        store, rank=rank(), world=world(), timeout_sec=timeout_sec, before_exit=before_exit
    )
    if dist.get_backend() == "nccl":
        _hosts = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_sec + LATER_SEC))
    # Heartbeats are read by key, so all must be there.
    all_gather(torch.tensor([0]))
    watch.begin()
    _peers = watch


def peers() -> PeerWatch | None:
    """The watch over the other ranks; None before `start`, and with one rank."""
    return _peers


def close_watch() -> None:
    """End the watch, if there is one."""
    global _peers
    if _peers is not None:
        _peers.close()
        _peers = None


def ends_jointly() -> bool:
    """Whether all ranks end by `fail_together`, and know why."""
    return _ends_jointly


def record_bug(error: Exception) -> None:
    """Report the traceback of a bug to torchrun, if that started this rank."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        get_error_handler().record_exception(error)


def waiting() -> AbstractContextManager[None]:
    """A block in which this rank waits for the others, such as one that sums gradients."""
    return _peers.waiting() if _peers is not None else nullcontext()


def stop_signal() -> int:
    """The signal that asks the ranks to stop after the next step, the same on all; 0: none.

    The ranks agree through their hosts, at every step: no device is waited for.
    """
    import torch
    import torch.distributed as dist

    if world() == 1:
        return stop.current().number
    number = torch.tensor([stop.current().number])
    with waiting():
        dist.all_reduce(number, op=dist.ReduceOp.MAX, group=_hosts)
    return int(number)


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
    with waiting():
        dist.all_gather(parts, local)
        # On a GPU the host waits here.
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
    global _ends_jointly
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
    _ends_jointly = True
    if error is not None and first == rank():
        raise error
    raise SystemExit(int(codes[first])) from None


def destroy_process_group() -> None:
    """Free the wrapped network, then destroy the process group that it uses.

    In the other order, freeing the network joins the group's threads while holding the
    interpreter's lock that they may wait for, and the rank never exits.
    """
    import torch.distributed as dist

    if _is_started():
        gc.collect()
        dist.destroy_process_group()
