"""`gpu_train.py --quick` on any device, and the arguments of `on_gpu.sh`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
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


def test_plain_loops_run_and_flops_are_counted(
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


def on_gpu(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BENCHMARKS / "on_gpu.sh"), *flags],
        env=environment(PYTHON=sys.executable),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_script_for_a_gpu_names_benchmarks_that_exist() -> None:
    text = (BENCHMARKS / "on_gpu.sh").read_text("utf-8")
    named = set(re.findall(r"benchmarks/(\w+\.py)", text))
    assert len(named) >= 4
    assert [name for name in sorted(named) if not (BENCHMARKS / name).is_file()] == []


def test_the_script_for_a_gpu_refuses_wrong_flags_and_a_machine_without_one() -> None:
    assert on_gpu("--help").returncode == 0
    for wrong in (["--unknown"], ["--seconds"], ["--images", "photographs"]):
        assert on_gpu(*wrong).returncode == 2
    blind = on_gpu()
    assert blind.returncode == 2
    assert "sees no GPU" in blind.stderr
