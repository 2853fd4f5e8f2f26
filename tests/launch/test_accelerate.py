"""`accelerate launch` with every file of configs/accelerate, on CPU ranks that meet over gloo."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment
from repository import REPO

FILES = sorted((REPO / "configs" / "accelerate").glob("*.yaml"))


def launched(file: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    paths = f"{REPO}:{REPO / 'tests' / 'helpers'}"
    return subprocess.Popen(
        [*command, *flags, "-m", "rank_probe"],
        env=environment(PYTHONPATH=paths),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_configuration_starts_ranks_that_meet(file: Path, free_port: int) -> None:
    """Files for eight GPUs and more start two ranks here; everything else is as it is."""
    world, launches = 2, [["--num_processes", "2"]]
    if file.stem == "one_gpu":
        world, launches = 1, [[]]
    elif file.stem == "cpu_ranks":
        launches = [[]]
    elif file.stem == "several_nodes":
        meet = ["--num_processes", "2", "--main_process_ip", "127.0.0.1"]
        meet += ["--main_process_port", str(free_port)]
        launches = [[*meet, "--machine_rank", str(number)] for number in range(2)]
    started = [launched(file, *flags) for flags in launches]
    try:
        outputs = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), outputs
    said = "".join(stdout for stdout, _ in outputs)
    total = world * (world + 1) // 2
    found = sorted(re.findall(r"rank \d of \d on cpu: \d+", said))
    assert found == [f"rank {rank} of {world} on cpu: {total}" for rank in range(world)]
