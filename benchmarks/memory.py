"""Peak memory of shard, label, predict and evaluate, which must not grow with the data.

    python benchmarks/memory.py [--small 100] [--large 1000]

Draws its images, runs every command on few and on many of them with two Ray workers, and samples
the proportional set sizes of the command and all its processes. Writes
`benchmarks/results/memory.json`.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine, tree_pss_kib
from PIL import Image
from safetensors.torch import save_file

from a2s.models.activation_net import ActivationNet
from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 150, 200
COMMANDS = ("shard", "label", "predict", "evaluate")
LIMIT = 1.15


def draw(folder: Path, num_images: int) -> None:
    """Draw discs on noise, with masks."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(num_images):
        rng = np.random.default_rng(number)
        row, column = rng.uniform(0.3, 0.7, 2) * (HEIGHT, WIDTH)
        inside = (y - row) ** 2 + (x - column) ** 2 < rng.uniform(20, 45) ** 2
        colour = np.where(inside[..., None], rng.integers(120, 220, 3), rng.integers(0, 100, 3))
        noisy = (colour + rng.integers(0, 30, (HEIGHT, WIDTH, 3))).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=90)
        (folder / "images" / f"{number:05d}.jpg").write_bytes(buffer.getvalue())
        Image.fromarray(inside.astype(np.uint8) * 255).save(folder / "masks" / f"{number:05d}.png")


def save_models(folder: Path, *, side: int = 128) -> None:
    """Save untrained networks; the quality of their output does not matter."""
    torch.manual_seed(0)
    for name, network in (
        ("stage1", ActivationNet(build_encoder("mobilenet_v2"), fusion_stride=4)),
        ("stage2", Detector(build_encoder("mobilenet_v2"))),
    ):
        tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        metadata = {**network.spec(), "image_size": str(side), "resize_filter": "bilinear"}
        save_file(tensors, folder / f"{name}.safetensors", metadata)


def arguments_of(command: str, folder: Path, models: Path) -> list[str]:
    return {
        "shard": [str(folder / "images"), "--shard-size", "50"],
        "label": ["--data", str(folder / "shard"), "--model", str(models / "stage1.safetensors")],
        "predict": [str(folder / "shard"), "--model", str(models / "stage2.safetensors")],
        "evaluate": ["--pred", str(folder / "predict"), "--truth", str(folder / "masks")],
    }[command]


def peak_mib(command: list[str]) -> tuple[float, float]:
    """Peak memory in MiB and seconds of a command with all its processes."""
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, tree_pss_kib(process.pid) / 1024)
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return peak, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=100)
    parser.add_argument("--large", type=int, default=1000)
    sizes = parser.parse_args()
    peaks: dict[str, dict[int, float]] = {command: {} for command in COMMANDS}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_models(root)
        for num_images in (sizes.small, sizes.large):
            folder = root / str(num_images)
            draw(folder, num_images)
            for command in COMMANDS:
                flags = [*arguments_of(command, folder, root), "--out", str(folder / command)]
                line = [sys.executable, "-m", "a2s", command, *flags, "--workers", "2"]
                mib, seconds = peak_mib(line)
                peaks[command][num_images] = round(mib, 1)
                print(
                    f"{command:8} {num_images:5} images: {mib:7.1f} MiB, {seconds:.1f} s",
                    flush=True,
                )
    ratios = {name: round(p[sizes.large] / p[sizes.small], 3) for name, p in peaks.items()}
    result = {
        **describe_machine(),
        "peak_mib": {name: {str(n): mib for n, mib in p.items()} for name, p in peaks.items()},
        "ratio": ratios,
        "limit": LIMIT,
    }
    write_json(ROOT / "benchmarks" / "results" / "memory.json", result)
    print(ratios)
    if max(ratios.values()) > LIMIT:
        sys.exit(f"peak memory grows by more than {LIMIT - 1:.0%}")


if __name__ == "__main__":
    main()
