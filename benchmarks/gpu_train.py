"""Both training stages on one GPU compared with a plain loop, and the paper's complete run.

    python benchmarks/gpu_train.py [--parts stage1 stage2 quality whole] [--encoders resnet50] …
    python benchmarks/gpu_train.py --quick --out result.json      any device, tiny, minutes at most

Each part takes at most ten minutes; results of other parts in the file are kept:
- `stage1`, `stage2`: images/s, share of time waiting for data, device memory and MFU of the
  commands, eager and compiled, with and without cached features; stage 2 also replayed as CUDA
  graphs, which the command does not do by itself. The same for `plain_train.py`, with PyTorch's
  default (TF32 convolutions) and in strict float32. Also the synchronisations per step. Results are
  written one by one, the most important first; a failed measurement is recorded as failed.
- `quality`: adaptive F of stage 2 on drawn scenes, bf16 and compiled compared with fp32 and eager.
- `whole`: 3000 images, 20 and 25 epochs, labels with the CRF in between; time of each step.

Encoders are untrained, because time does not depend on the weights. With `--weights FILE` quality
varies less between seeds. Needs neither network access nor Ray.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_cell import flops
from gpu_material import CellError, cell, make_images, make_truth, pack
from machine import describe_machine

HERE = Path(__file__).parent
RESULT = HERE / "results" / "gpu_train.json"
PARTS = ("stage1", "stage2", "quality", "whole")
PLAIN, REPLAYED = "plain, TF32 convolutions", "compiled and replayed"
BATCH = 8
# Dense bfloat16 peak of the SXM cards, FLOP/s (data sheets).
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
TARGET_SPEEDUP, TARGET_F, TARGET_WHOLE_SEC = 3.0, 0.005, 180.0


def stage(
    name: str, args: argparse.Namespace, work: Path, save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure the speed of one stage: the plain loop and ours."""
    root = work / name
    make_images(root, count=args.images, side=400 if not args.quick else 64, num_scenes=40)
    pack(root)
    result: dict[str, Any] = {"images": args.images, "encoders": {}}
    for encoder in args.encoders:
        counts = flops({"encoder": encoder, "side": args.side})
        cells: dict[str, dict[str, Any]] = {}
        result["encoders"][encoder] = {"flops_per_image": counts, "cells": cells}
        for label, what in cells_of(name, args, encoder, root).items():
            try:
                cells[label] = cell(**what)
            except CellError as error:
                cells[label] = {"failed": str(error)}
            if "synchronising_calls" in cells[label]:
                count = cells[label].pop("synchronising_calls")
                cells[label] = {
                    "synchronising_calls_per_step": round(count / -(-args.images // BATCH), 3),
                    "where": cells[label]["where"],
                }
            print(name, encoder, label, cells[label], flush=True)
            add_rates(cells, counts, name)
            save(result)
    return result


def cells_of(
    name: str, args: argparse.Namespace, encoder: str, root: Path
) -> dict[str, dict[str, Any]]:
    """Return the measurements by label, in order."""
    plain = {"kind": "plain", "stage": name, "encoder": encoder, "side": args.side}
    plain |= {"workers": args.workers, "images": root / "images", "masks": root / "masks"}
    cells: dict[str, dict[str, Any]] = {PLAIN: {**plain, "tf32": True}}
    syncs: dict[str, dict[str, Any]] = {}
    for precision, way, cached in variants(name, args):
        parts = [precision, way]
        parts += [] if cached is None else ["cached" if cached else "not cached"]
        label = ", ".join(parts)
        settings = common(args, encoder) | {
            "data": root / "data",
            "out": root / f"{encoder} {label}",
            "precision": precision,
            "compile": way != "eager",
            # Enough epochs to cache nearly every (image, flip), so that the last one is steady.
            "epochs": 2 if args.quick else 6 if cached else 3,
        }
        if name == "stage1":
            settings |= {"cache_gib": 32 if cached else 0, "lr": 0.01}
            settings["cache_dir"] = root / f"cache {encoder} {label}"
        else:
            settings |= {"labels": root / "labels", "warm_epochs": 0}
        cells[label] = {
            "kind": "job",
            "job": name,
            "settings": settings,
            "replayed": way == REPLAYED,
        }
        if (precision, way) == ("bf16", "eager") and cached is not False:
            once = settings | {"out": root / f"{encoder} syncs", "epochs": 1}
            counted = {"kind": "job", "job": name, "settings": once, "count_syncs": True}
            syncs[f"{label}: calls that wait for the device"] = counted
    return cells | {"plain, strict fp32": {**plain, "tf32": False}} | syncs


def variants(name: str, args: argparse.Namespace) -> list[tuple[str, str, bool | None]]:
    """(precision, variant, features cached) of the measurements of a stage."""
    kinds = [("bf16", "eager"), ("bf16", "compiled"), ("bf16", REPLAYED), ("fp32", "eager")]
    if args.quick:
        kinds = kinds[-1:]
    if name == "stage1":
        # Stage 1 always replays compiled code as CUDA graphs.
        kinds = [kind for kind in kinds if kind[1] != REPLAYED]
    caching = (True, False) if name == "stage1" else (None,)
    return [(precision, way, cached) for cached in caching for precision, way in kinds]


def add_rates(cells: dict[str, dict[str, Any]], counts: dict[str, Any], name: str) -> None:
    """Add ratios to the plain loop, and MFU of bfloat16 runs relative to the card's dense peak."""
    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
    peak = next((value for known, value in PEAK_FLOPS.items() if known in card), None)
    plain = cells[PLAIN].get("images_per_sec")
    for label, found in cells.items():
        rate = found.get("images_per_sec")
        if rate and plain:
            found["speedup_over_plain"] = round(rate / plain, 2)
        if rate and peak and label.startswith("bf16"):
            per_image = counts["stage2"]
            if name == "stage1":
                encodes = counts["encoder_forward"] if "not cached" in label else 0
                per_image = counts["stage1_blocks"] + encodes
            found["mfu"] = round(rate * per_image / peak, 4)


def common(args: argparse.Namespace, encoder: str) -> dict[str, Any]:
    shape = {"image_size": args.side, "batch_size": BATCH}
    return {"encoder": {"name": encoder}, "loader_workers": args.workers, "log_every": 50, **shape}


def quality(
    args: argparse.Namespace, work: Path, save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Compare the quality of fast and plain training: the same short run from several seeds."""
    root = work / "quality"
    side = 64 if args.quick else 320
    count, epochs, seeds = (16, 1, 1) if args.quick else (400, 15, 3)
    make_images(root, count=count, side=side, num_scenes=count)
    make_truth(root / "truth", count=4 if args.quick else 60, side=side)
    pack(root)
    fast = {"precision": args.precision, "compile": args.compile}
    found: dict[str, list[dict[str, Any]]] = {"fp32, eager": [], "bf16, compiled": []}
    for seed in range(seeds):
        for label, changed in (("fp32, eager", {}), ("bf16, compiled", fast)):
            settings = common(args, args.encoders[0]) | {
                "data": root / "data",
                "labels": root / "labels",
                "out": root / f"{label} {seed}",
                "epochs": epochs,
                "milestones": [epochs - 2, epochs - 1],
                "seed": seed,
                "encoder": {"name": args.encoders[0], "weights": args.weights},
                # An untrained encoder needs the same learning rate as the decoder.
                "encoder_lr_scale": 1.0 if args.weights == "none" else 0.1,
                **changed,
            }
            cell(
                kind="job", job="stage2", settings=settings, replayed=args.replay and bool(changed)
            )
            truth = {name: root / "truth" / name for name in ("images", "masks")}
            found[label].append(cell(kind="scores", model=settings["out"], **truth))
            print("quality", label, seed, found[label][-1], flush=True)
    mean = {label: float(np.mean([s["adaptive_f"] for s in runs])) for label, runs in found.items()}
    change = mean["bf16, compiled"] - mean["fp32, eager"]
    return {"runs": found, "mean_adaptive_f": mean, "adaptive_f_change": round(change, 4)}


def whole(
    args: argparse.Namespace, work: Path, save: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Time the paper's run step by step, without drawing the images."""
    root, encoder = work / "whole", args.encoders[0]
    count = 16 if args.quick else 3000
    make_images(root, count=count, side=64 if args.quick else 400, num_scenes=min(count, 60))
    steps: dict[str, dict[str, Any]] = {}
    fast = common(args, encoder) | {"precision": args.precision, "compile": args.compile}
    fast |= {"data": root / "data", "cache_dir": root / "cache", "cache_gib": 24}
    first = {"epochs": 1} if args.quick else {}
    commands: list[tuple[str, dict[str, Any]]] = [
        ("shard", {"images": [root / "images"], "out": root / "data", "workers": 0}),
        ("stage1", fast | {"out": root / "stage1"} | first),
        (
            "label",
            {"model": root / "stage1", "data": root / "data", "out": root / "labels", "workers": 0},
        ),
        ("stage2", fast | {"labels": root / "labels", "out": root / "stage2"} | first),
    ]
    for command, settings in commands:
        if command == "stage2":
            settings = {k: v for k, v in settings.items() if not k.startswith("cache")}
        steps[command] = cell(kind="job", job=command, settings=settings, replayed=args.replay)
        print("whole", command, steps[command], flush=True)
        save({"images": count, "steps": steps})
    total = sum(step["wall_sec"] for step in steps.values())
    shares = {name: round(step["wall_sec"] / total, 3) for name, step in steps.items()}
    return {"images": count, "steps": steps, "total_sec": round(total, 1), "shares": shares}


def targets(parts: dict[str, Any]) -> dict[str, Any]:
    """Return the targets and whether they were reached."""
    found: dict[str, Any] = {}
    if "stage2" in parts:
        for encoder, result in parts["stage2"]["encoders"].items():
            best = max(c.get("speedup_over_plain", 0) for c in result["cells"].values())
            found[f"stage 2, {encoder}: times the plain loop"] = [best, best >= TARGET_SPEEDUP]
    if "adaptive_f_change" in parts.get("quality", {}):
        change = parts["quality"]["adaptive_f_change"]
        found["change of adaptive F"] = [change, abs(change) <= TARGET_F]
    if "total_sec" in parts.get("whole", {}):
        total = parts["whole"]["total_sec"]
        found["whole run, seconds"] = [total, total <= TARGET_WHOLE_SEC]
    return found


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--encoders", nargs="+", default=["resnet50", "mobilenet_v2"])
    parser.add_argument(
        "--weights", default="none", help="weights of the first encoder, for quality"
    )
    parser.add_argument("--images", type=int, default=1024, help="images of stage1 and stage2")
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--workers", type=int, default=max(2, min(12, cores - 2)))
    parser.add_argument(
        "--precision", default="bf16", help="precision of the fast variant in quality and whole"
    )
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--replay", action="store_true", help="replay stage 2 in quality and whole as well"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.quick:
        args.images, args.side, args.workers = 16, 64, 0
        # On a CPU bfloat16 is slow and compiling takes a minute.
        args.encoders, args.precision, args.compile = ["mobilenet_v2"], "fp32", False
    record = json.loads(args.out.read_text()) if args.out.exists() else {"parts": {}}
    stages = {name: functools.partial(stage, name) for name in ("stage1", "stage2")}
    measure = {**stages, "quality": quality, "whole": whole}
    words = ["FILE" if word in (str(args.out), args.weights) else word for word in sys.argv[1:]]
    command = shlex.join(["python", "benchmarks/gpu_train.py", *words])

    def save(name: str, result: dict[str, Any]) -> None:
        record["parts"][name] = {"command": command, **describe_machine(), **result}
        record["targets"] = targets(record["parts"])
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")

    for name in args.parts:
        with tempfile.TemporaryDirectory() as folder:
            save(name, measure[name](args, Path(folder), functools.partial(save, name)))
    print(json.dumps(record["targets"], indent=1))


if __name__ == "__main__":
    main()
