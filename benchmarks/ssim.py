"""Stage 2 on a CPU: the blur of SSIM by convolution and by banded matrices, in turns.

    python benchmarks/ssim.py [--side 320] [--batch 8] [--rounds 6] [--threads 1 2] \
        --out benchmarks/results/ssim.json

One training step of the detector (MobileNetV2, RAM, bf16 autocast) without the optimizer, on random
images. The gradients of both ways are compared with each other, and with those of float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from machine import describe_machine
from torch import Tensor

from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder
from a2s.training import losses

BANDED = losses._blur


def convolved(x_N1HW: Tensor) -> Tensor:
    """Blur by two convolutions, as on a GPU."""
    gauss, half = losses._gaussian_window(x_N1HW), losses.SSIM_WINDOW // 2
    x_N1HW = F.conv2d(x_N1HW, gauss.view(1, 1, 1, -1), padding=(0, half))
    return F.conv2d(x_N1HW, gauss.view(1, 1, -1, 1), padding=(half, 0))


def step(network: Any, image: Tensor, target: Tensor, *, bf16: bool) -> Tensor:
    """One step; returns all gradients in a row."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = network(image)
    terms = losses.detection_loss_per_image(logits, target)
    torch.stack([term.mean() for term in terms]).sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def distance(a: Tensor, b: Tensor) -> float:
    """Difference of two gradients, as a share of the first one's length."""
    return float((a - b).norm() / a.norm())


def measure(blurs: dict[str, Callable[[Tensor], Tensor]], args: argparse.Namespace) -> Any:
    """Seconds per image by way, in turns."""
    torch.manual_seed(0)
    network = Detector(build_encoder("mobilenet_v2")).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for module in network.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    image = torch.randn(args.batch, 3, args.side, args.side)
    image = image.contiguous(memory_format=torch.channels_last)
    target = (F.avg_pool2d(torch.randn(args.batch, 1, args.side, args.side), 9, 1, 4) > 0).float()
    seconds: dict[str, list[float]] = {name: [] for name in blurs}
    gradients: dict[str, Tensor] = {}
    for _ in range(args.rounds + 1):
        for name, blur in blurs.items():
            losses._blur = blur
            began = time.perf_counter()
            gradients[name] = step(network, image, target, bf16=True)
            seconds[name].append((time.perf_counter() - began) / args.batch)
    losses._blur = BANDED
    exact = step(network, image, target, bf16=False)
    by_way = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return {
        "sec_per_image": {name: round(value, 4) for name, value in by_way.items()},
        "times_as_fast": round(by_way["convolution"] / by_way["banded"], 2),
        "gradient_difference": distance(gradients["convolution"], gradients["banded"]),
        "difference_of_bf16_to_float32": distance(exact, gradients["convolution"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    blurs = {"convolution": convolved, "banded": BANDED}
    result: dict[str, Any] = {**describe_machine(), "side": args.side, "batch": args.batch}
    for threads in args.threads:
        torch.set_num_threads(threads)
        result[f"{threads} thread(s)"] = measure(blurs, args)
        print(threads, result[f"{threads} thread(s)"], flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
