"""What a launcher has set in the environment; needs no torch."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping

from a2s.errors import ConfigError

CPU_COMMAND = (
    "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1 "
    "--mixed_precision no --dynamo_backend no -m a2s …"
)
GPU_COMMAND = "accelerate launch --multi_gpu --num_processes N -m a2s …"
RESOLVE_SEC = 60.0
TORCHRUN_COMMAND = "torchrun --nproc_per_node N -m a2s …"


def check_launch(environ: Mapping[str, str], *, wait_sec: float = 0) -> None:
    """Refuse a launch that would silently train independent single processes.

    A name that does not resolve is waited for, `wait_sec`: on Kubernetes that of rank 0 appears
    some seconds after the others start.

    Raises:
        ConfigError: MASTER_ADDR is set but WORLD_SIZE is not, as after
            `accelerate launch --cpu --num_processes 2`; RANK does not fit WORLD_SIZE; several
            ranks have no address to meet at, or one that does not resolve.
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
        raise ConfigError(
            f"launch: RANK={rank} does not fit WORLD_SIZE={world}; for one process, unset both"
        )
    if int(world) > 1:
        _check_address(environ, world=world, wait_sec=wait_sec)


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


def launched_rank(environ: Mapping[str, str]) -> int:
    """This process's rank as set by the launcher; needs no torch."""
    return int(environ.get("RANK", "0"))


def cpu_requested(environ: Mapping[str, str]) -> bool:
    """Whether Accelerate's variable ACCELERATE_USE_CPU forces training on the CPU."""
    return environ.get("ACCELERATE_USE_CPU", "").lower() in {"1", "true", "yes", "y", "on"}
