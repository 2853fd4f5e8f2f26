"""The dense CRF in torch: throughput, memory, phases, and quality of its masks.

    python benchmarks/crf_gpu.py [--images DIR [--masks DIR]] [--quick] [--out FILE]

Without photographs it uses drawn scenes, or textured noise if pydantic is missing. Initial labels
are blurred and distorted ground truth, as rough as activation maps. Needs neither network access
nor Ray. Backends that cannot be imported are skipped with a message. Without CUDA it only times
torch's plain operations on the CPU, and the result says so. Writes
`benchmarks/results/crf_gpu.json`.

`estimate` in the result is not measured. It is the minimum number of bytes per image, from the
measured number of vertices per pixel, divided by the memory bandwidth of an H200 (4.3 TB/s copied)
and by a tenth of it, since most accesses are gathers. Per pixel and iteration 12 bytes per corner
for each of splat and slice (index, weight, value) and 24 bytes per vertex and blur direction; once,
8 passes of a radix sort over key and index, and 60 bytes per corner and 200 per vertex for the
rest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from crf_material import pictures
from crf_phases import PARAMS, Pair, finish, on_device, phases
from machine import describe_machine
from numpy.typing import NDArray

from a2s.labels.crf.torch_backend.filter import TORCH_KERNELS, Kernels
from a2s.labels.crf.torch_backend.inference import marginals

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "crf_gpu.json"
sys.path.append(str(ROOT / "tests" / "helpers"))
oracles = importlib.import_module("crf_reference")

EXACT_SIDE = 48
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def ways(device: torch.device) -> dict[str, Kernels]:
    found = {"torch": TORCH_KERNELS}
    if device.type == "cuda":
        from a2s.labels.crf.torch_backend import filter_triton

        found["triton"] = filter_triton.KERNELS
    return found


def speed(
    pairs: list[Pair], args: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """Images/s of every variant, dtype and batch size; the variants alternate."""
    rows = []
    for size in args.batches:
        images, logits = on_device([pairs[i % len(pairs)] for i in range(size)], device)
        runs = {
            (way, name): (kernels, dtype)
            for way, kernels in ways(device).items()
            for name, dtype in DTYPES.items()
        }
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        peaks: dict[tuple[str, str], float] = {}
        for repeat in range(args.repeats + 1):
            for key, (kernels, dtype) in runs.items():
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                finish(device)
                start = time.perf_counter()
                marginals(images, logits, PARAMS, dtype=dtype, kernels=kernels, max_bytes=2**36)
                finish(device)
                if repeat:  # the first repeat compiles and fills the cache of positions
                    times[key].append(time.perf_counter() - start)
                if device.type == "cuda":
                    peaks[key] = torch.cuda.max_memory_allocated() - before
        for (way, name), took in times.items():
            row = {
                "kernels": way,
                "dtype": name,
                "batch": size,
                "images_per_sec": round(size / statistics.median(took), 2),
                "fastest_images_per_sec": round(size / min(took), 2),
            }
            if device.type == "cuda":
                row["peak_bytes_per_pixel"] = round(peaks[way, name] / size / args.side**2)
            rows.append(row)
            print(row, flush=True)
    return rows


def estimate(vertices: dict[str, float], side: int) -> dict[str, Any]:
    """Minimum bytes per image, and the images/s that they allow on an H200."""
    bilateral, gaussian = vertices["bilateral"], vertices["gaussian"]
    iteration = 2 * 12 * (6 + 3) + 24 * (6 * bilateral + 3 * gaussian) + 8
    build = 6 * (8 * 32 + 60) + 200 * bilateral
    per_image = (PARAMS.iterations * iteration + build) * side**2
    return {
        "is": "an estimate from counted bytes, not a measurement",
        "megabytes_per_image": round(per_image / 1e6),
        "images_per_sec_at_4.3_TB_per_sec": round(4.3e12 / per_image),
        "images_per_sec_at_a_tenth_of_it": round(4.3e11 / per_image),
    }


def iou(a_HW: NDArray[np.bool_], b_HW: NDArray[np.bool_]) -> float:
    union = int((a_HW | b_HW).sum())
    return float((a_HW & b_HW).sum() / union) if union else 1.0


def other_backends() -> dict[str, Callable[..., NDArray[np.bool_]]]:
    found = {}
    for name in ("pydensecrf", "numba"):
        try:
            found[name] = importlib.import_module(f"a2s.labels.crf.{name}_backend").crf
        except ImportError as error:
            print(f"skipped {name}: {error}")
    return found


def variants(pairs: list[Pair], device: torch.device) -> dict[str, list[NDArray[np.float32]]]:
    """Q(foreground) - Q(background) of every image, by variant and dtype."""
    images, logits = on_device(pairs, device)
    return {
        f"{way} {name}": [
            s.float().cpu().numpy()
            for s in marginals(images, logits, PARAMS, dtype=dtype, kernels=kernels)
        ]
        for way, kernels in ways(device).items()
        for name, dtype in DTYPES.items()
    }


def agreement(pairs: list[Pair], device: torch.device) -> dict[str, Any]:
    """Compare masks with those of the other backends, and time these on one CPU core."""
    ours = variants(pairs, device)
    rows: dict[str, Any] = {}
    for name, crf in other_backends().items():
        crf(*pairs[0], PARAMS)
        start = time.process_time()
        masks = [crf(*one, PARAMS) for one in pairs]
        row: dict[str, Any] = {
            "cpu_images_per_sec": round(len(pairs) / (time.process_time() - start), 2)
        }
        for variant, found in ours.items():
            scores = [iou(s > 0, mask) for s, mask in zip(found, masks, strict=True)]
            pixels = [int(((s > 0) != mask).sum()) for s, mask in zip(found, masks, strict=True)]
            row[variant] = {
                "iou_mean": round(statistics.mean(scores), 6),
                "iou_min": round(min(scores), 6),
                "pixels_that_differ": sum(pixels),
            }
        rows[f"against {name}"] = row
    return {"num_images": len(pairs), **rows}


def distance_to_exact(pairs: list[Pair], device: torch.device) -> dict[str, Any]:
    """Difference of the lattice results from the exact mean field over all pixel pairs."""
    truths = [oracles.exact_marginals(*one, PARAMS) for one in pairs]
    found: dict[str, Any] = dict(variants(pairs, device))
    try:
        found["pydensecrf"] = [oracles.library_marginals(*one, PARAMS) for one in pairs]
    except ImportError as error:
        print(f"skipped pydensecrf against the exact mean field: {error}")
    rows: dict[str, Any] = {}
    for name, results in found.items():
        gaps = [np.abs(s - t) / 2 for s, t in zip(results, truths, strict=True)]
        scores = [iou(s > 0, t > 0) for s, t in zip(results, truths, strict=True)]
        rows[name] = {
            "q_difference_mean": round(float(np.mean(gaps)), 6),
            "q_difference_max": round(float(np.max(gaps)), 6),
            "iou_mean": round(statistics.mean(scores), 5),
            "iou_min": round(min(scores), 5),
        }
    return {"num_images": len(pairs), "side": EXACT_SIDE, **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of JPEG photographs")
    parser.add_argument("--masks", type=Path, help="their masks, same names, PNG")
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 128])
    parser.add_argument("--quick", action="store_true", help="batches of 1 and 4, 3 repeats")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    if args.quick:
        args.batches, args.repeats = [1, 4], 3
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    source, found = pictures(args.images, args.masks, num_images=args.num_images, side=args.side)
    pairs, small = (
        [oracles.rough_case(*picture, side=side, seed=seed) for seed, picture in enumerate(part)]
        for part, side in ((found, args.side), (found[:20], EXACT_SIDE))
    )
    # The result contains no path of this machine.
    paths = {str(args.images): "DIR", str(args.masks): "DIR", str(args.out): "FILE"}
    command = " ".join(
        ["python benchmarks/crf_gpu.py", *(paths.get(word, word) for word in sys.argv[1:])]
    )
    size = max(args.batches)
    by_way = {
        name: phases(pairs, kernels, size=size, device=device)
        for name, kernels in ways(device).items()
    }
    result = {
        "command": command,
        **describe_machine(),
        "measured_on": "CUDA" if device.type == "cuda" else "the CPU only: says nothing about GPUs",
        "cpu_threads": args.threads,
        "load_average": round(os.getloadavg()[0], 1),
        "material": source,
        "side": args.side,
        "speed": speed(pairs, args, device),
        "phases": by_way,
        "estimate": estimate(by_way["torch"]["vertices_per_pixel"], args.side),
        "agreement": agreement(pairs, device),
        "distance_to_exact_mean_field": distance_to_exact(small, device),
    }
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in result.items() if k != "speed"}, indent=1))


if __name__ == "__main__":
    main()
