"""Foreground colours of cut-outs against those of pymatting, of local means, and of the image.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/foreground.py --data ECSSD

ECSSD holds `images/` and `masks/`. The object of each of 100 photographs is put on another
photograph with a soft edge that lies within its mask, so that its own colours are known. The error
is the mean absolute difference of the colours (0..1) over half-covered pixels, also weighted by
alpha, as it shows on a new background. pymatting is measured where it is installed; its first
import compiles its functions and is measured apart, in an empty cache. Writes
`benchmarks/results/foreground.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from machine import describe_machine

from a2s.data.arrays import F32, U8
from a2s.data.images import decode, decode_mask
from a2s.evaluation.pictures.foreground import foreground_colours

RESULT = Path(__file__).parent / "results" / "foreground.json"
SIGMAS_PX = (1.0, 2.5, 8.0)
IMPORT = "from pymatting.foreground.estimate_foreground_ml import estimate_foreground_ml"
Way = Callable[[U8, U8], F32]
"""(image_HW3, alpha_HW) -> colours in 0..1."""


def share(levels: U8) -> F32:
    return levels.astype(np.float32) / 255


def local_means(image_HW3: U8, alpha_HW: U8) -> F32:
    """Two passes of Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021."""
    image, a = share(image_HW3), share(alpha_HW)[..., None]
    front = back = image
    for share_of_side in (0.025, 0.0075):
        side = 2 * max(1, round(share_of_side * max(alpha_HW.shape))) + 1
        above = cv2.blur(front * a, (side, side))
        below = cv2.blur(back * (1 - a), (side, side))
        mean_front = above / (cv2.blur(a[..., 0], (side, side))[..., None] + 1e-5)
        back = below / (cv2.blur(1 - a[..., 0], (side, side))[..., None] + 1e-5)
        rest = image - a * mean_front - (1 - a) * back
        front = np.clip(mean_front + a * rest, 0, 1).astype(np.float32)
    return front


def ways() -> dict[str, Way]:
    found: dict[str, Way] = {
        "colours of the image": lambda image_HW3, alpha_HW: share(image_HW3),
        "local means": local_means,
        "a2s": lambda image_HW3, alpha_HW: share(foreground_colours(image_HW3, alpha_HW)),
    }
    if importlib.util.find_spec("pymatting"):
        from pymatting.foreground.estimate_foreground_ml import estimate_foreground_ml

        found["pymatting, estimate_foreground_ml"] = lambda image_HW3, alpha_HW: np.asarray(
            estimate_foreground_ml(
                share(image_HW3).astype(np.float64), share(alpha_HW).astype(np.float64)
            ),
            np.float32,
        )
    return found


def import_seconds() -> dict[str, float]:
    """CPU seconds of pymatting's first import, and of the next one."""
    with tempfile.TemporaryDirectory() as cache:
        code = f"import time; {IMPORT}; print(time.process_time())"
        first, second = (
            float(
                subprocess.run(
                    [sys.executable, "-c", code],
                    env={**os.environ, "NUMBA_CACHE_DIR": cache},
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(2)
        )
    return {"first": round(first, 1), "next": round(second, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    files = sorted((args.data / "images").iterdir())[:200]
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    found = ways()
    for sigma in SIGMAS_PX:
        for file, other in zip(files[:100], files[100:], strict=True):
            own_HW3 = decode(file.read_bytes())
            height, width = own_HW3.shape[:2]
            behind_HW3 = cv2.resize(decode(other.read_bytes()), (width, height))
            mask = decode_mask((args.data / "masks" / f"{file.stem}.png").read_bytes()) > 128
            soft_HW = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
            alpha_HW = np.rint(np.clip(2 * soft_HW - 1, 0, 1) * 255).astype(np.uint8)
            a = share(alpha_HW)[..., None]
            image_HW3 = np.rint(own_HW3 * a + behind_HW3 * (1 - a)).astype(np.uint8)
            is_soft_HW = (alpha_HW > 5) & (alpha_HW < 250)
            for name, way in found.items():
                start = time.thread_time()
                colours_HW3 = way(image_HW3, alpha_HW)
                rows[name]["cpu_sec"].append(time.thread_time() - start)
                error_HW = np.abs(colours_HW3 - share(own_HW3)).mean(-1)
                rows[name][f"error, sigma {sigma:g} px"].append(error_HW[is_soft_HW].mean())
                weighted = (error_HW * a[..., 0])[is_soft_HW].mean()
                rows[name][f"weighted error, sigma {sigma:g} px"].append(weighted)
        print(f"sigma {sigma:g} px", flush=True)
    large_HW3 = cv2.resize(image_HW3, (4000, 3000))
    large_HW = cv2.resize(alpha_HW, (4000, 3000))
    start = time.thread_time()
    foreground_colours(large_HW3, large_HW)
    result = {
        "command": "OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/foreground.py --data ECSSD",
        **describe_machine(),
        "num_images": 100,
        "rows": {
            name: {key: round(float(np.mean(values)), 4) for key, values in row.items()}
            for name, row in rows.items()
        },
        "a2s_cpu_sec_of_12_megapixels": round(time.thread_time() - start, 2),
    }
    if importlib.util.find_spec("pymatting"):
        result["pymatting"] = importlib.metadata.version("pymatting")
        result["pymatting_import_cpu_sec"] = import_seconds()
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
