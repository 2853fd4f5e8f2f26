"""What a launcher has set in the environment; needs no torch."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping

from a2s.errors import ConfigError

CPU_COMMAND = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1 "
    "--mixed_precision no --dynamo_backend no -m a2s …"
)
GPU_COMMAND = "accelerate launch --multi_gpu --num_processes N -m a2s …"
RESOLVE_SEC = 60.0
SAY_SEC = 30.0
TORCHRUN_COMMAND = "torchrun --nproc_per_node N -m a2s …"


_FALSE = ("", "0", "false", "f", "no", "n", "off")
_TRUE = ("1", "true", "t", "yes", "y", "on")
_OF_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
"""Sizes of MPI's launchers, which Accelerate takes for those of its own."""
_PLAIN = {
    "ACCELERATE_USE_CPU": (*_FALSE[1:], *_TRUE),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("", "1"),
    "ACCELERATE_DYNAMO_BACKEND": ("no",),
    "ACCELERATE_TORCH_DEVICE": ("",),
    "ACCELERATE_USE_DEEPSPEED": _FALSE,
    "ACCELERATE_USE_FSDP": _FALSE,
    "ACCELERATE_USE_MEGATRON_LM": _FALSE,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _FALSE,
}
"""Variables with which Accelerate would do something else than a2s asks, and their harmless values,
in small letters. With two steps of accumulation, say, it would halve all gradients."""


def check_launch(environ: Mapping[str, str], *, wait_sec: float = 0) -> None:
    """Refuse a launch that would silently train independent single processes, or other than asked.

    A name that does not resolve is waited for, `wait_sec`: on Kubernetes that of rank 0 appears
    some seconds after the others start.

    Raises:
        ConfigError: MASTER_ADDR is set but WORLD_SIZE is not, as after
            `accelerate launch --cpu --num_processes 2`; RANK does not fit WORLD_SIZE; several
            ranks have no address to meet at, or one that does not resolve; variables are left over.
    """
    if "MASTER_ADDR" in environ and "WORLD_SIZE" not in environ:
        raise ConfigError(
            "launch: MASTER_ADDR is set but WORLD_SIZE is not, so this would be one process on its "
            "own (`accelerate launch --cpu --num_processes N` starts only one). On CPU use\n"
            f"  {CPU_COMMAND}\nor\n  {TORCHRUN_COMMAND}\n"
            "For one process, unset MASTER_ADDR."
        )
    world, rank = environ.get("WORLD_SIZE", "1"), environ.get("RANK", "0")
    if not _is_below(rank, world):
        raise ConfigError(
            f"launch: RANK={rank} does not fit WORLD_SIZE={world}; for one process, unset both"
        )
    _check_local(environ)
    _check_others(environ, world=int(world))
    if int(world) > 1:
        _check_address(environ, world=world, wait_sec=wait_sec)


def check_start() -> None:
    """Check the launch of this process before anything is read or waited for.

    Raises:
        ConfigError: as `check_launch`.
    """
    check_launch(os.environ, wait_sec=RESOLVE_SEC)


def _is_below(number: str, limit: str) -> bool:
    return number.isdigit() and limit.isdigit() and int(number) < int(limit)


def _check_local(environ: Mapping[str, str]) -> None:
    """Refuse a place on a machine that cannot be right; Accelerate takes its GPU by it."""
    local_world = environ.get("LOCAL_WORLD_SIZE", environ.get("WORLD_SIZE", "1"))
    local_rank = environ.get("LOCAL_RANK", "0")
    if "WORLD_SIZE" not in environ and "LOCAL_RANK" not in environ:
        # It is read for several ranks only.
        return
    if not _is_below(local_rank, local_world):
        raise ConfigError(
            f"launch: LOCAL_RANK={local_rank} does not fit LOCAL_WORLD_SIZE={local_world}; for one "
            "process, unset both"
        )
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in needed if not environ.get(name)]
    if "LOCAL_RANK" in environ and missing:
        raise ConfigError(
            f"launch: LOCAL_RANK is set, but {missing[0]} is not: variables of another launch are "
            f"left over; start ranks with `{TORCHRUN_COMMAND}`, or unset LOCAL_RANK for one process"
        )


def _check_others(environ: Mapping[str, str], *, world: int) -> None:
    """Refuse variables by which Accelerate would do something else."""
    for name, plain in _PLAIN.items():
        if (value := environ.get(name)) is not None and value.lower() not in plain:
            raise ConfigError(
                f"launch: {name}={value} is set, and a2s trains with plain data parallelism by its "
                "own settings; unset it, or launch with a file of configs/accelerate"
            )
    threads = environ.get("OMP_NUM_THREADS", "1")
    if world > 1 and not threads.isdigit():
        raise ConfigError(f"launch: OMP_NUM_THREADS={threads} is no number of threads; unset it")
    for name in _OF_MPI:
        size = environ.get(name, "1")
        if not size.isdigit() or (int(size) > 1 and world == 1):
            raise ConfigError(
                f"launch: {name}={size} is set, but WORLD_SIZE is {world}: ranks of MPI are none "
                f"of a2s; start ranks with `{TORCHRUN_COMMAND}`, or unset {name}"
            )


def _check_address(environ: Mapping[str, str], *, world: str, wait_sec: float) -> None:
    """Refuse an address that no rank could meet at; torch would wait for half an hour."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environ.get(name):
            raise ConfigError(
                f"launch: WORLD_SIZE is {world}, but {name} is not set: variables of another "
                f"launch are left over; start ranks with `{TORCHRUN_COMMAND}`, or "
                "unset WORLD_SIZE and RANK for one process"
            )
    address, port = environ["MASTER_ADDR"], environ["MASTER_PORT"]
    if not port.isdigit() or not 0 < int(port) < 2**16:
        raise ConfigError(
            f"launch: WORLD_SIZE is {world}, but MASTER_PORT={port} is no port (1 to 65535)"
        )
    deadline, said = time.monotonic() + wait_sec, False
    while True:
        try:
            socket.getaddrinfo(address, int(port))
            return
        except (OSError, UnicodeError) as error:
            if isinstance(error, UnicodeError) or time.monotonic() >= deadline:
                raise ConfigError(
                    f"launch: WORLD_SIZE is {world}, but MASTER_ADDR={address} does not resolve "
                    f"({error}); set it to the name or address of the machine of rank 0"
                ) from None
        if not said:
            print(f"a2s: launch: waiting {wait_sec:.0f} s for {address}", file=sys.stderr)
        said = True
        time.sleep(1)


def hide_mpi(environ: MutableMapping[str, str]) -> None:
    """Remove what SLURM may set beside a launcher of ranks, and Accelerate would rather believe."""
    for name in _OF_MPI:
        environ.pop(name, None)


@contextlib.contextmanager
def joining(environ: Mapping[str, str]) -> Iterator[None]:
    """A block in which the ranks meet; say so if it takes long, as with variables left over.

    Raises:
        ConfigError: they cannot meet.
    """
    where = ":".join(environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    world = environ.get("WORLD_SIZE", "1")
    if world == "1":
        yield
        return
    text = f"a2s: launch: waiting at {where} for the other ranks (WORLD_SIZE={world})"
    timer = threading.Timer(SAY_SEC, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    except RuntimeError as error:
        # Of torch.distributed: the port is in use, there is no such interface, nobody came.
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"launch: {world} ranks (WORLD_SIZE) cannot meet at {where}, MASTER_ADDR and "
            f"MASTER_PORT ({why}); start all of them, with a port that is free"
        ) from error
    finally:
        timer.cancel()


def launched_rank(environ: Mapping[str, str]) -> int:
    """This process's rank as set by the launcher; needs no torch."""
    return int(environ.get("RANK", "0"))


def cpu_requested(environ: Mapping[str, str]) -> bool:
    """Whether Accelerate's variable ACCELERATE_USE_CPU forces training on the CPU."""
    return environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes", "y", "on"}
