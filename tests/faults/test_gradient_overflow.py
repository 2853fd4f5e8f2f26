"""A gradient overflows though the loss is finite: no rank takes that step, in either stage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from label_shards import write_labels
from processes import environment, pack

PLANTED = """
import hashlib, math, os, sys
import torch
from a2s.__main__ import main
from a2s.training import stage1, stage2

name = sys.argv[1]
stage = {"stage1": stage1, "stage2": stage2}[name]
hashes, start = [], getattr(stage, "start_" + name)
rank, last = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)) - 1

def planted(*args, **named):
    model, parameters, optimizer = start(*args, **named)
    step_if = optimizer.step_if

    def overflow(gradient):
        return gradient * math.inf if rank == last and len(hashes) == 1 else gradient

    def counted(finite):
        step_if(finite)
        momentum = [optimizer.state[p]["momentum_buffer"] for p in parameters.values()]
        state = [tensor.detach().numpy().tobytes() for tensor in (*parameters.values(), *momentum)]
        hashes.append(hashlib.sha256(b"".join(state)).hexdigest())
        with open(f"hashes-{rank}", "w") as file:
            file.write(" ".join(hashes))

    next(iter(parameters.values())).register_hook(overflow)
    optimizer.step_if = counted
    return model, parameters, optimizer

setattr(stage, "start_" + name, planted)
main()
"""


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_gradient_that_overflows_updates_nothing_on_any_rank(
    scenes, tmp_path: Path, free_port: int, stage: str, world: int
) -> None:
    """One gradient of the last rank is infinite in the second of four steps."""
    data = pack(scenes.train, tmp_path / "data")
    out = tmp_path / "out"
    given = {
        "stage1": ["--cache-gib", "0"],
        "stage2": ["--labels", str(write_labels(data, tmp_path / "labels")), "--warm-epochs", "0"],
    }
    command = [
        *(sys.executable, "-c", PLANTED, stage, "--data", str(data), *given[stage]),
        *("--out", str(out), "--encoder.name", "mobilenet_v2", "--image-size", "32"),
        *("--batch-size", "2", "--epochs", "1", "--loader-workers", "0"),
    ]
    launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment(
                **({**launcher, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {})
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    # A launched rank leaves its exit code to the launcher, which knows 0 and 1.
    assert all(rank.returncode in (1, 2) for rank in ranks), errors
    told = [line for text in errors for line in text.splitlines() if line.startswith("a2s: ")]
    assert len(told) == 1, errors
    assert "a gradient or a sum is not finite at epoch 1 step 2, though each image's" in told[0]
    assert "Weights were not updated" in told[0]
    listed = json.loads((out / "nonfinite" / "epoch-1-step-2.json").read_text())
    assert listed["not_finite"] == []
    assert len(listed["batch"]) == 2
    hashes = [(tmp_path / f"hashes-{rank}").read_text().split() for rank in range(world)]
    assert len(hashes[0]) == 4, "the host reads it only at the end of the epoch"
    assert len(set(hashes[0])) == 1, "the first step is the last that changes weights or momentum"
    assert all(other == hashes[0] for other in hashes)
    assert not (out / "commits").exists() or not list((out / "commits").iterdir())
    assert not list((out / "labels").rglob("generation-*"))
