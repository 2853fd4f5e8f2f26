"""One training step on one device, without loader and log: time, kernel launches, losses.

    python benchmarks/gpu_step.py [--stages stage1 stage2] [--encoder resnet50] [--out FILE]

Variants: eager float32 and bfloat16; compiled; compiled and replayed (CUDA graphs: the host
launches one graph instead of many kernels). `host_ms` is the time until the host has launched a
step, `ms` until the device has finished it. `busy_ms` and `kernels` are the device's work by
torch's profiler. `losses` of the first steps from the same initial state reveal a variant that
computes something else. Images and labels are noise, encoders untrained.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from a2s.data.transforms import flip_where, normalise
from a2s.models.activation_net import ActivationNet
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.models.encoders import set_batchnorm
from a2s.training.losses import adb_loss, map_terms
from a2s.training.optimizer import GuardedSGD
from a2s.training.stage2_loss import LOSS_OF, loss_and_labels
from a2s.training.step import compiled

RESULT = Path(__file__).resolve().parent / "results" / "gpu_step.json"
BATCH, AGREE = 8, 8
WAYS: dict[str, tuple[bool, bool | None]] = {
    "fp32, eager": (False, None),
    "bf16, eager": (True, None),
    "bf16, compiled": (True, False),
    "bf16, compiled and replayed": (True, True),
}
"""Autocast, and whether compiled code is replayed as CUDA graphs (None: not compiled)."""
Step = Callable[[], Tensor]


def finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def optimiser(module: nn.Module, lr: float) -> GuardedSGD:
    groups = [{"params": list(module.parameters())}]
    return GuardedSGD(groups, lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)


def stage1(encoder: str, side: int, device: torch.device, way: tuple[bool, bool | None]) -> Step:
    """Build a step of stage 1 that starts from cached features."""
    autocast, replayed = way
    net = ActivationNet(load_encoder(encoder, "none"), fusion_stride=4).to(device).train()
    image = torch.randn(BATCH, 3, side, side, device=device)
    with torch.no_grad():
        taps = [tap.float() for tap in net.encode(image)]
    blocks: Callable[..., Any] = net.heads[0]
    judge: Callable[..., Any] = map_terms
    if replayed is not None:
        net.heads[0].forward = compiled(net.heads[0].forward, device, replayed=replayed)  # type: ignore[method-assign]
        judge = compiled(map_terms, device, replayed=replayed)
    optimizer = optimiser(net.heads[0], 0.01)
    valid = torch.ones(BATCH, dtype=torch.bool, device=device)
    weights = torch.tensor([1, 0.1, 0.3, 0.5], device=device)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            maps = blocks(*taps, size=(side, side))
        terms = judge(maps, valid, None, side=side, alpha=0.1)
        loss = adb_loss(terms.numerator_K, terms.num_kept_K.float(), weights)
        loss.backward()
        loss = torch.where(optimizer.finite_gradients(), loss, math.nan)
        optimizer.step_if(loss.isfinite())
        return loss.detach()

    return step


def stage2(encoder: str, side: int, device: torch.device, way: tuple[bool, bool | None]) -> Step:
    """Build a step of stage 2 that starts from bytes on the device and rectifies labels."""
    autocast, replayed = way
    net = Detector(load_encoder(encoder, "none")).to(device).train()
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    set_batchnorm(net.encoder, "frozen")
    judge: Callable[..., Any] = functools.partial(loss_and_labels, loss=LOSS_OF["ram"].per_image)
    if replayed is not None:
        net.forward = compiled(net.forward, device, replayed=replayed)  # type: ignore[method-assign]
        judge = compiled(judge, device, replayed=replayed)
    optimizer = optimiser(net, 0.001)
    shape = (BATCH, 3, side, side)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    image = image.contiguous(memory_format=torch.channels_last)
    label = torch.rand(BATCH, 1, side, side, device=device).round()
    flip = torch.arange(BATCH, device=device) % 2 > 0

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = net(flip_where(normalise(image), flip))
        outcome = judge(logits.float(), label, flip, lam=0.4, hard=True)
        loss: Tensor = outcome.loss_M.mean()
        loss.backward()
        optimizer.step_if(outcome.measured_MF.isfinite().all() & optimizer.finite_gradients())
        return loss.detach().clone()

    return step


def measure(step: Step, count: int) -> dict[str, Any]:
    started = time.perf_counter()
    losses = [float(step())]
    first = time.perf_counter() - started
    losses += [float(step()) for _ in range(AGREE - 1)]
    finish()
    started = time.perf_counter()
    for _ in range(count):
        step()
    host = time.perf_counter() - started
    finish()
    found: dict[str, Any] = {
        "ms": round(1000 * (time.perf_counter() - started) / count, 2),
        "host_ms": round(1000 * host / count, 2),
        "first_step_sec": round(first, 1),
        "losses": [round(loss, 4) for loss in losses],
    }
    if torch.cuda.is_available():
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            for _ in range(5):
                step()
            finish()
        on_device = [
            event
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA
        ]
        found["busy_ms"] = round(sum(event.device_time for event in on_device) / 5000, 2)
        found["kernels"] = round(len(on_device) / 5)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--stages", nargs="+", choices=("stage1", "stage2"), default=["stage2", "stage1"]
    )
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    words = f"--stages {' '.join(args.stages)} --encoder {args.encoder} --side {args.side}"
    result: dict[str, Any] = {"command": f"python benchmarks/gpu_step.py {words}"}
    result |= describe_machine()
    for stage in args.stages:
        result[stage] = {}
        for name, way in WAYS.items():
            torch.manual_seed(0)
            make = {"stage1": stage1, "stage2": stage2}[stage]
            found = measure(make(args.encoder, args.side, device, way), args.steps)
            result[stage][name] = found
            print(stage, name, found, flush=True)
            args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
