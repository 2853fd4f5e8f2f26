"""Run `a2s` as users do: real processes and gloo ranks, or a call in this process."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
from forkserver import Process

LAUNCHER_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK")


@dataclass(frozen=True)
class Finished:
    """Exit code and output of a finished rank."""

    code: int
    stdout: str
    stderr: str


def environment(**extra: str) -> dict[str, str]:
    """This process's environment with one CPU thread and without a launcher's variables."""
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER_VARIABLES}
    return {**clean, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **extra}


def start_ranks(
    arguments: list[str],
    *,
    world: int,
    variables: list[dict[str, str]] | None = None,
    folders: list[Path] | None = None,
    hold_at: str = "",
) -> list[Process]:
    """Start `a2s ARGUMENTS` on `world` gloo ranks, as a launcher would.

    `variables` and (working) `folders` are per rank. `hold_at`: as of `Process`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(world):
        launcher = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        own = variables[rank] if variables else {}
        processes.append(
            Process(
                arguments,
                env=environment(**{**(launcher if world > 1 else {}), **own}),
                cwd=folders[rank] if folders else None,
                hold_at=hold_at,
            )
        )
    return processes


def run_ranks(
    arguments: list[str],
    *,
    world: int,
    variables: list[dict[str, str]] | None = None,
    folders: list[Path] | None = None,
    timeout_sec: float = 300,
) -> list[Finished]:
    """Run `a2s ARGUMENTS` on `world` ranks and wait for them."""
    processes = start_ranks(arguments, world=world, variables=variables, folders=folders)
    try:
        outputs = [process.communicate(timeout=timeout_sec) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        Finished(process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def call(*arguments: object) -> Finished:
    """Run `a2s ARGUMENTS` in this process, which has imported torch already."""
    from a2s.__main__ import run
    from a2s.errors import A2SError
    from a2s.parallel import rank_main

    stdout, stderr, code = io.StringIO(), io.StringIO(), 2
    with (
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        # It is for launched processes, and points the fault handler at their stderr.
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(rank_main, "report_to_launcher", lambda function: function)
        try:
            code = run([str(argument) for argument in arguments])
        except A2SError as error:
            print(error, file=stderr)
    return Finished(code, stdout.getvalue(), stderr.getvalue())


def pack(images: Path, out: Path, *, shard_size: int = 3) -> Path:
    """Pack images into uneven shards in this process."""
    from a2s.commands import shard
    from a2s.config.commands import ShardConfig

    code = shard.run(ShardConfig(images=(str(images),), out=out, shard_size=shard_size, workers=0))
    assert code == 0
    return out
