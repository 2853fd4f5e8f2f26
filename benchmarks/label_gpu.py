"""Labelling on one GPU without Ray: throughput of every part and end to end.

    python benchmarks/label_gpu.py --images DIR --model RUN [--count 1000] [--out FILE]

Measures `a2s label --workers 0` with network and CRF on the GPU, twice (the first call compiles the
CRF's kernels into a fresh cache), and with the network at the images' own sizes; `a2s predict`; and
the activation network by batch size in this process, with the model and with an untrained
ResNet-50. The seconds of commands include start-up; the times that the job logs do not. Results are
written after every part.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import PRICE, describe_machine

from a2s.models.activation_net import ActivationNet
from a2s.models.encoder_weights import load_encoder
from a2s.models.inference import InferenceModel, local_device, on_gpu_or_cpu
from a2s.models.prepare import prepare_for_inference
from a2s.models.saved import SavedNetwork

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "label_gpu.json"
BATCHES = {"cuda": (1, 8, 32, 64, 128), "cpu": (1, 8)}
WAYS: dict[str, list[str]] = {
    "label, first call": [],
    "label": [],
    "label, network at own size": ["--parity.network-size", "own"],
}


def a2s(*arguments: object) -> float:
    """Run a command and return its seconds, start-up included."""
    started = time.monotonic()
    command = [sys.executable, "-m", "a2s", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr[-3000:]}{done.stdout[-1000:]}")
    return time.monotonic() - started


def stages(out: Path) -> dict[str, Any]:
    """Read from the job's log its own time and the rates of its stages."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    labelled = next(line for line in lines if line.get("event") == "labelled")
    parts = ("GPU processes", "readers", "CPU workers", "bottleneck")
    found = {name: labelled[name] for name in parts if name in labelled}
    return {"job_images_per_sec": round(labelled["num_images"] / labelled["wall_sec"], 1), **found}


def sweep(network: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    """Seconds of the first call, and images/s after it, by batch size."""
    found = {}
    for batch in BATCHES[device.type]:
        pixels = np.random.default_rng(0).integers(0, 256, (batch, 320, 320, 3), np.uint8)
        model = InferenceModel(network, device, batch)
        started = time.monotonic()
        model.maps(pixels)
        first = time.monotonic() - started
        repeats = max(3, (256 if device.type == "cuda" else 8) // batch)
        started = time.monotonic()
        for _ in range(repeats):
            model.maps(pixels)
        rate = repeats * batch / (time.monotonic() - started)
        found[str(batch)] = {"images_per_sec": round(rate, 1), "first_call_sec": round(first, 2)}
    return found


def activation(model: Path) -> dict[str, Any]:
    """Measure both networks, prepared as for labelling."""
    device, saved = local_device(), SavedNetwork.find_for_labels(model)
    rates = {"the model": sweep(on_gpu_or_cpu(saved, batch_size=1).network, device)}
    torch.manual_seed(0)
    network = ActivationNet(load_encoder("resnet50", "none"), fusion_stride=4)
    prepare_for_inference(network, device.type)
    rates["resnet50"] = sweep(network, device)
    return rates


def per_million(images_per_sec: float) -> dict[str, float]:
    """Hours of this machine for a million labels, without start-up, and their cost."""
    hours = 1e6 / images_per_sec / 3600
    hourly = PRICE["gpu_hour"] + PRICE["core_hour"] * len(os.sched_getaffinity(0))
    return {"machine_hours": round(hours, 2), "dollars": round(hours * hourly, 2), **PRICE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    command = f"python benchmarks/label_gpu.py --images DIR --model RUN --count {args.count}"
    result: dict[str, Any] = {"command": command, **describe_machine(), "commands": {}}

    def save() -> None:
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="a2s-label-") as name:
        work = Path(name)
        os.environ["TRITON_CACHE_DIR"] = str(work / "triton")
        chosen = sorted(args.images.glob("*.jpg"))[: args.count]
        (work / "images").mkdir()
        for path in chosen:
            shutil.copy(path, work / "images" / path.name)
        count = len(chosen)
        sec = a2s("shard", work / "images", "--out", work / "data", "--workers", 0)
        result["commands"]["shard"] = {"images_per_sec": round(count / sec, 2)}
        result["num_images"] = count
        for number, (way, flags) in enumerate(WAYS.items()):
            out = work / f"labels{number}"
            sec = a2s(
                *("label", "--model", args.model, "--data", work / "data", "--out", out),
                *("--workers", 0, *flags),
            )
            rate = {"images_per_sec": round(count / sec, 2), "seconds": round(sec, 2)}
            result["commands"][way] = {**rate, **stages(out)}
            print(way, result["commands"][way], flush=True)
            save()
        sec = a2s(
            *("predict", work / "images", "--model", args.model, "--out", work / "preds"),
            *("--workers", 0),
        )
        result["commands"]["predict"] = {"images_per_sec": round(count / sec, 2)}
        save()
    rate = result["commands"]["label"]["job_images_per_sec"]
    result["per_million_images"] = per_million(rate)
    result["activation, by batch size"] = activation(args.model)
    save()
    print(json.dumps(result["activation, by batch size"], indent=1))


if __name__ == "__main__":
    main()
