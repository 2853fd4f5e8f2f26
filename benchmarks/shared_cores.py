"""Two jobs on the same cores: what idle libgomp threads that spin cost them.

    python benchmarks/shared_cores.py [--images 100] [--rounds 3]

`a2s predict` of drawn scenes by an untrained detector (MobileNetV2, 320 px), in fresh processes:
one alone, and two at once. Each is measured with libgomp's own spin count (300,000 while there are
no more threads than cores) and with the 1000 that a2s sets. Reports wall seconds per process,
start-up included, as medians over rounds, and writes `benchmarks/results/shared_cores.json`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

from a2s.data.synthetic import render_folder
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "shared_cores.json"
SPIN_COUNTS = {"libgomp's default": "300000", "set by a2s": "1000"}
SIDE = 320


def write_model(path: Path) -> Path:
    """Write a detector with random weights, as stage 2 writes one."""
    from safetensors.torch import save_file

    network = Detector(load_encoder("mobilenet_v2", "none"), detector="ram")
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    metadata = {**network.spec(), "image_size": str(SIDE), "resize_filter": "bilinear"}
    save_file(tensors, path, metadata)
    return path


def wall_sec(images: Path, model: Path, out: Path, *, spin_count: str, jobs: int) -> list[float]:
    """Seconds that each of `jobs` processes takes when they start together."""
    command = [sys.executable, "-m", "a2s", "predict", str(images), "--model", str(model)]
    command += ["--workers", "0"]
    environment = {**os.environ, "GOMP_SPINCOUNT": spin_count, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    started = time.perf_counter()
    running = [
        subprocess.Popen(
            [*command, "--out", str(out / str(number))],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in range(jobs)
    ]
    seconds = []
    while running:
        for process in list(running):
            if process.poll() is not None:
                if process.returncode:
                    raise SystemExit(f"a2s predict failed with exit code {process.returncode}")
                seconds.append(time.perf_counter() - started)
                running.remove(process)
        time.sleep(0.02)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    found: dict[str, dict[int, list[float]]] = {way: {1: [], 2: []} for way in SPIN_COUNTS}
    with tempfile.TemporaryDirectory(prefix="a2s-shared-cores-") as folder:
        root = Path(folder)
        render_folder(root / "scenes", num_train=args.images, num_test=1, side_px=400, seed=0)
        model = write_model(root / "model.safetensors")
        for number in range(args.rounds):
            for way, spin_count in SPIN_COUNTS.items():
                for jobs in (1, 2):
                    out = root / f"{number}-{spin_count}-{jobs}"
                    found[way][jobs] += wall_sec(
                        root / "scenes" / "train", model, out, spin_count=spin_count, jobs=jobs
                    )
                    print(way, jobs, found[way][jobs], flush=True)
    result = {
        "command": f"python benchmarks/shared_cores.py --images {args.images} "
        f"--rounds {args.rounds}",
        **describe_machine(),
        "images": args.images,
        "wall_sec_per_process": {
            way: {
                f"{jobs} at once": round(statistics.median(seconds), 2)
                for jobs, seconds in by_jobs.items()
            }
            for way, by_jobs in found.items()
        },
        "all_wall_sec": {
            way: {
                f"{jobs} at once": [round(sec, 2) for sec in seconds]
                for jobs, seconds in by_jobs.items()
            }
            for way, by_jobs in found.items()
        },
    }
    write_json(args.out, result)
    print(result["wall_sec_per_process"])


if __name__ == "__main__":
    main()
