"""Every job that uses a GPU, on one: it runs, and computes what a CPU computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ENCODER = ["--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "4"]
TRAINING = [*ENCODER, "--loader-workers", "1", "--log-every", "1"]


def a2s(*arguments: object, **variables: str) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "a2s", *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def work(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the scenes, a model of stage 1, and its labels, all from the GPU."""
    folder = tmp_path_factory.mktemp("gpu")
    a2s("shard", scenes.train, "--out", folder / "data", "--workers", 0)
    command = ["stage1", "--data", folder / "data", "--epochs", 3, "--lr", 0.01, *TRAINING]
    assert "on cuda" in a2s(*command, "--out", folder / "s1")
    label = ["label", "--model", folder / "s1", "--data", folder / "data", "--workers", 0]
    assert "network on the GPU" in a2s(*label, "--out", folder / "labels")
    return folder


def masks(labels: Path) -> dict[str, np.ndarray]:
    found = {}
    for shard in sorted(labels.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                data = np.frombuffer(tar.extractfile(member).read(), np.uint8)  # type: ignore[union-attr]
                found[member.name] = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) > 127
    assert len(found) == 8
    return found


@pytest.mark.parametrize("size", ["trained", "own"])
def test_labels_are_those_of_a_cpu(work: Path, size: str) -> None:
    label = ["label", "--model", work / "s1", "--data", work / "data", "--workers", 0]
    label += ["--parity.network-size", size]
    gpu, cpu = work / f"gpu-{size}", work / f"cpu-{size}"
    a2s(*label, "--out", gpu)
    a2s(*label, "--out", cpu, CUDA_VISIBLE_DEVICES="")
    expected = masks(cpu)
    for name, mask in masks(gpu).items():
        # Where a map crosses zero flatly, a last bit moves the edge.
        assert (mask != expected[name]).mean() < 0.02, name


def test_an_estimate_counts_hours_of_the_gpu(work: Path) -> None:
    about = ["--data", work / "data", "--model", work / "s1", "--images", 1000]
    said = a2s("estimate", *about, "--workers", 0)
    assert "GPU-hours" in said
    assert "no GPU was found" not in said


def test_what_does_not_fit_into_the_cache_is_computed_again(work: Path) -> None:
    command = ["stage1", "--data", work / "data", "--epochs", 2, "--lr", 0.01, *TRAINING]
    for gib in ("0", "1"):
        a2s(*command, "--out", work / f"cache-{gib}", "--cache-gib", gib)
    assert losses(work / "cache-0") == pytest.approx(losses(work / "cache-1"), abs=1e-3)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_compiled_training_is_the_same_training(work: Path, stage: str) -> None:
    command = [stage, "--data", work / "data", "--epochs", 3, "--precision", "bf16", *TRAINING]
    command += ["--labels", work / "labels"] if stage == "stage2" else ["--lr", "0.01"]
    for flag in ("--no-compile", "--compile"):
        a2s(*command, "--out", work / f"{stage}{flag}", flag)
    eager, compiled = losses(work / f"{stage}--no-compile"), losses(work / f"{stage}--compile")
    assert eager[:1] == pytest.approx(compiled[:1], abs=2e-2)
    assert eager == pytest.approx(compiled, abs=6e-2)


def test_a_detector_is_trained_and_predicts(work: Path, scenes) -> None:
    run = work / "s2"
    command = ["stage2", "--data", work / "data", "--labels", work / "labels", "--epochs", 2]
    assert "on cuda" in a2s(*command, "--warm-epochs", 1, *TRAINING, "--out", run)
    predict = ["predict", scenes.images, "--model", run, "--workers", 0]
    a2s(*predict, "--out", work / "gpu-maps")
    a2s(*predict, "--out", work / "cpu-maps", CUDA_VISIBLE_DEVICES="")
    for path in sorted((work / "cpu-maps").glob("*.png")):
        pair = [
            cv2.imread(str(folder / path.name), 0) for folder in (work / "gpu-maps", path.parent)
        ]
        assert np.abs(pair[0].astype(int) - pair[1]).max() <= 2


def test_moving_averages_are_made_on_the_gpu(work: Path) -> None:
    run = work / "hma"
    command = ["stage2", "--data", work / "data", "--labels", work / "labels", "--out", run]
    command += ["--rectify", "hma", "--warm-epochs", 0, "--epochs", 2, *TRAINING]
    pass_over = ["hma", "--run", run, "--data", work / "data", "--labels", work / "labels"]
    a2s(*command)
    assert "label generation 1 of 8 images" in a2s(*pass_over, "--workers", 0)
    a2s(*command)
    assert all(np.isfinite(losses(run)))
