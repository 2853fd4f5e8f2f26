"""Stage 1's fusion convolution: plain, and as `conv3x3_of_upsampled` computes it.

    python benchmarks/fusion.py [--device cuda] [--threads 2] [--repeats 7]

Forward and backward of a 3x3 convolution over F3, F4, F5 (64 channels each) upsampled to the fusion
stride and concatenated; both variants alternate in one process. Use wall time on an idle machine,
CPU time of one thread on a busy one. Writes
`benchmarks/results/fusion.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from machine import describe_machine
from torch import Tensor

from a2s.models.blocks import conv3x3_of_upsampled, upsample

RESULT = Path(__file__).parent / "results" / "fusion.json"
WIDTH = 64


def plain(
    maps: Sequence[Tensor], weight_OI33: Tensor, bias_O: Tensor, *, size: tuple[int, int]
) -> Tensor:
    joined = torch.cat([upsample(m, size) for m in maps], dim=1)
    return F.conv2d(joined, weight_OI33, bias_O, padding=1)


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def timed_sec(
    compute: Callable[..., Tensor], inputs: list[Tensor], size: int
) -> tuple[float, float]:
    """Wall and CPU seconds of one forward and backward pass."""
    for tensor in inputs:
        tensor.grad = None
    *maps, weight, bias = inputs
    finish(weight.device)
    start, start_cpu = time.perf_counter(), time.process_time()
    out = compute(maps, weight, bias, size=(size, size))
    out.backward(torch.ones_like(out))
    finish(weight.device)
    return time.perf_counter() - start, time.process_time() - start_cpu


def measure(stride: int, args: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    shapes = [(args.batch, WIDTH, n, n) for n in (args.image // s for s in (8, 16, 32))]
    shapes += [(WIDTH, 3 * WIDTH, 3, 3), (WIDTH,)]
    inputs = [torch.randn(shape, device=args.device).requires_grad_() for shape in shapes]
    inputs[-2].data *= (9 * 3 * WIDTH) ** -0.5
    size = args.image // stride
    *maps, weight, bias = inputs
    with torch.no_grad():
        expected = plain(maps, weight, bias, size=(size, size))
        found = conv3x3_of_upsampled(maps, weight, bias, size=(size, size))
        error = ((found - expected).abs().max() / expected.abs().max()).item()
    ways = {"plain": plain, "project": conv3x3_of_upsampled}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):
        for name, compute in ways.items():
            took = timed_sec(compute, inputs, size)
            if repeat:  # the first repeat is a warm-up
                times[name].append(took)
    row = {"stride": stride, "largest_relative_difference": error}
    for position, clock in enumerate(("wall", "cpu")):
        best = {name: min(took[position] for took in times[name]) for name in ways}
        row |= {f"{name}_{clock}_sec": round(value, 4) for name, value in best.items()}
        row[f"{clock}_ratio"] = round(best["plain"] / best["project"], 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=320, help="side in pixels")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for stride in (2, 4, 8):
        rows.append(row := measure(stride, args))
        print(
            f"stride {row['stride']}: plain {row['plain_wall_sec']:.3f} s, "
            f"project {row['project_wall_sec']:.3f} s, {row['wall_ratio']:.1f}x; processor time "
            f"{row['cpu_ratio']:.1f}x (relative difference "
            f"{row['largest_relative_difference']:.0e})",
            flush=True,
        )
    settings = vars(args)
    command = "python benchmarks/fusion.py " + " ".join(f"--{k} {v}" for k, v in settings.items())
    load = round(os.getloadavg()[0], 1)
    result = {"command": command, **describe_machine(), "load_average": load, "rows": rows}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
