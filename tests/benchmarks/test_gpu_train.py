"""The benchmark of training on a GPU, in its tiny form on whatever is here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_whole_run_is_measured_and_merged(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    out.write_text(json.dumps({"parts": {"quality": {"adaptive_f_change": 0.001}}}))
    command = [sys.executable, "gpu_train.py", "--quick", "--parts", "whole", "--out", str(out)]
    done = subprocess.run(
        command,
        cwd=BENCHMARKS,
        env=environment(PYTHONPATH=str(BENCHMARKS.parent)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    record = json.loads(out.read_text())
    assert list(record["parts"]["whole"]["steps"]) == ["shard", "stage1", "label", "stage2"]
    assert record["targets"]["change of adaptive F"] == [0.001, True]
    assert record["targets"]["whole run, seconds"][0] == record["parts"]["whole"]["total_sec"]


def test_plain_loops_and_counts_are_of_the_same_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import gpu_cell
    import gpu_material
    import plain_train

    gpu_material.make_images(tmp_path, count=8, side=48, num_scenes=4)
    shape = {"encoder": "mobilenet_v2", "side": 32, "workers": 0, "tf32": True}
    for stage in ("stage1", "stage2"):
        cell = {**shape, "stage": stage}
        found = plain_train.run(cell, tmp_path / "images", tmp_path / "masks")
        assert found["images_per_sec"] > 0
    counts = gpu_cell.flops(shape)
    # Backward costs twice the forward pass, so the trained detector more than three encoders.
    assert counts["stage2"] > 3 * counts["encoder_forward"] > 0
    assert counts["stage1_blocks"] > 0


def test_all_that_needs_a_gpu_is_run_in_order_as_far_as_time_allows(tmp_path: Path) -> None:
    log, python = tmp_path / "log", tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$*" >>{log}\ncase $* in *gpu_step*) exit 3 ;; esac\n', encoding="utf-8"
    )
    python.chmod(0o755)

    def run(*flags: str, python: Path = python) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BENCHMARKS / "on_gpu.sh"), "--out", str(tmp_path / "results"), *flags],
            env=environment(PYTHON=str(python)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = run("--images", "photographs", "--model", "run")
    assert done.returncode == 1, "a step failed"
    names = [
        "tests",
        "step",
        "stage2",
        "whole",
        "whole-replayed",
        "stage1",
        "quality",
        "crf",
        "label",
    ]
    summary = done.stdout.partition("== summary\n")[2].splitlines()
    assert [line.partition(":")[0] for line in summary] == names
    assert [" 3 " in line for line in summary] == [name == "step" for name in names]
    assert all("exit code" in line for line in summary)
    ran = log.read_text().splitlines()[1:]
    assert len(ran) == len(names)
    for line in ran[1:]:
        assert (BENCHMARKS.parent / line.split()[0]).is_file(), line
        assert f"--out {tmp_path}/results/" in line
    late = run("--seconds", "20")
    assert (late.returncode, late.stdout.count("no time left")) == (1, 8)
    only = run("^stage")
    assert only.returncode == 0
    summary = only.stdout.partition("== summary\n")[2].splitlines()
    assert [line.partition(":")[0] for line in summary] == ["stage2", "stage1"]
    for wrong in (["--unknown"], ["--seconds"], ["--images", "photographs"]):
        assert run(*wrong).returncode == 2
    assert run("--help").returncode == 0
    blind = run(python=Path(sys.executable))
    assert blind.returncode == 2
    assert "sees no GPU" in blind.stderr
