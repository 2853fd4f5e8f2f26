"""What it costs that `--workers 0` decodes images in processes of their own.

    python benchmarks/isolation.py [--images 40] [--rounds 7]

`a2s shard`, `predict`, `label` and `evaluate` of one photograph and of `--images` of MSRA-B, by an
untrained MobileNetV2, in fresh processes with and without `a2s.data.isolation.isolated`, in turn:
the least wall seconds and CPU seconds of all rounds, start-up included. `decode_ms` are the least
milliseconds for a photograph in one process. Photographs are in `$A2S_SHARED/data/msra1000`.
Writes `benchmarks/results/isolation.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from machine import describe_machine
from safetensors.torch import save_file

from a2s.data import images
from a2s.data.isolation import isolated
from a2s.models.activation_net import ActivationNet
from a2s.models.encoder_weights import load_encoder
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "isolation.json"
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
COMMANDS = ("shard", "predict", "label", "evaluate")
WAYS = {
    "isolated": "",
    "plain": "import contextlib, a2s.data.isolation as i; i.isolated = contextlib.nullcontext; ",
}


def write_model(path: Path) -> Path:
    """Write an activation network with random weights, as stage 1 writes one."""
    torch.manual_seed(0)
    network = ActivationNet(load_encoder("mobilenet_v2", "none"), fusion_stride=4)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, {**network.spec(), "image_size": "320", "resize_filter": "bilinear"})
    return path


def run(way: str, arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command in a fresh process, and of its children."""
    code = f"{WAYS[way]}from a2s.__main__ import main; main()"
    before, started = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--workers", "0"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    wall, after = time.perf_counter() - started, os.times()
    if done.returncode:
        raise SystemExit(done.stderr)
    used = after.children_user - before.children_user
    return wall, used + after.children_system - before.children_system


def measure(photographs: list[Path], root: Path, rounds: int) -> dict[str, object]:
    """Least seconds of every command, each way."""
    folder, data, maps = root / "photographs", root / "data", root / "maps"
    folder.mkdir(parents=True)
    for path in photographs:
        shutil.copy(path, folder)
    model = str(write_model(root / "model.safetensors"))
    run("plain", ["shard", str(folder), "--out", str(data)])
    run("plain", ["predict", str(folder), "--model", model, "--out", str(maps)])
    given = {
        "shard": [str(folder)],
        "predict": [str(folder), "--model", model],
        "label": ["--data", str(data), "--model", model],
        "evaluate": ["--pred", str(maps), "--truth", str(maps)],
    }
    found = {}
    for command in COMMANDS:
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, times in taken.items():
                with tempfile.TemporaryDirectory(dir=root) as out:
                    times.append(run(way, [command, *given[command], "--out", f"{out}/x"]))
        found[command] = {
            way: {
                "wall": round(min(w for w, _ in times), 2),
                "cpu": round(min(c for _, c in times), 2),
            }
            for way, times in taken.items()
        }
        print(len(photographs), command, found[command])
    return found


def decode_ms(photographs: list[Path], rounds: int) -> dict[str, float]:
    """Least milliseconds for a photograph, each way, all read before."""
    data = [path.read_bytes() for path in photographs]
    blocks: dict[str, AbstractContextManager[None]] = {
        "plain": contextlib.nullcontext(),
        "isolated": isolated(),
    }
    found = {}
    for way, block in blocks.items():
        with block:
            images.decode(data[0])
            taken = []
            for _ in range(rounds):
                started = time.perf_counter()
                for one in data:
                    images.decode(one)
                taken.append(time.perf_counter() - started)
        found[way] = round(1000 * min(taken) / len(data), 2)
    return found


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    photographs = sorted((SHARED / "data" / "msra1000").glob("*.jpg"))[: arguments.images]
    with tempfile.TemporaryDirectory() as folder:
        seconds = {
            str(count): measure(photographs[:count], Path(folder) / str(count), arguments.rounds)
            for count in (1, len(photographs))
        }
    write_json(
        RESULT,
        {
            "command": f"python benchmarks/isolation.py --rounds {arguments.rounds}",
            **describe_machine(),
            "seconds": seconds,
            "decode_ms": decode_ms(photographs, arguments.rounds),
        },
    )


if __name__ == "__main__":
    main()
