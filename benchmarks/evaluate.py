"""`a2s evaluate` compared with a single-process loop over pysodmetrics, start-up included.

    python benchmarks/evaluate.py [--shared DIR] [--pairs 100 200 1000 2000]

Predictions are shifted, blurred and noisy masks: soft maps with all 256 levels, the slowest case.
Pairs beyond 200 repeat the first ones under other keys. Each side is a fresh Python process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from machine import describe_machine

REPO = Path(__file__).resolve().parents[1]
LIBRARY_LOOP = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import cv2, py_sod_metrics as m
cv2.setNumThreads(1)
measures = m.MAE(), m.Fmeasure(), m.WeightedFmeasure(), m.Smeasure(), m.Emeasure()
for path in sorted(Path(sys.argv[1]).glob("*.png")):
    prediction = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    truth = cv2.imread(str(Path(sys.argv[2]) / path.name), cv2.IMREAD_GRAYSCALE)
    for measure in measures:
        measure.step(prediction, truth)
print(measures[0].get_results()["mae"], measures[1].get_results()["fm"]["adp"])
"""


def make_pairs(masks: Path, root: Path, num_pairs: int) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    sources = sorted(masks.glob("*.png"))
    made = []
    for folder in ("pred", "truth"):
        (root / folder).mkdir()
    for number in range(num_pairs):
        pred, truth = (root / side / f"pair{number:05d}.png" for side in ("pred", "truth"))
        if number < len(sources):
            mask = cv2.imread(str(sources[number]), cv2.IMREAD_GRAYSCALE)
            soft = cv2.GaussianBlur(np.roll(mask, 12, 1), (0, 0), 9).astype(int)
            noisy = np.clip(soft + rng.integers(0, 40, mask.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(pred), noisy)
            made.append(pred)
        else:
            os.link(made[number % len(made)], pred)
        truth.symlink_to(sources[number % len(sources)])
    return root / "pred", root / "truth"


@dataclass(frozen=True)
class Cost:
    """Resources of one process; `cpu_sec` and `peak_mib` do not include Ray's processes."""

    wall_sec: float
    cpu_sec: float
    peak_mib: float
    printed: str


def timed(command: list[str]) -> Cost:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(command, stdout=printed, cwd=REPO, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall_sec = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        printed.seek(0)
        cpu_sec = usage.ru_utime + usage.ru_stime
        return Cost(wall_sec, cpu_sec, usage.ru_maxrss / 1024, printed.read())


def compare(masks: Path, num_pairs: int, *, workers: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pred, truth = make_pairs(masks, root, num_pairs)
        loop = timed([sys.executable, "-c", LIBRARY_LOOP, str(pred), str(truth)])
        mae, adaptive_f = map(float, loop.printed.split())
        result: dict[str, object] = {
            "pairs": num_pairs,
            # If larger than the number of cores, other programs ran and wall times mean little.
            "load_average_1_min": round(os.getloadavg()[0], 1),
            "pysodmetrics_loop_wall_sec": round(loop.wall_sec, 2),
            "pysodmetrics_loop_cpu_sec": round(loop.cpu_sec, 2),
        }
        for number in workers:
            out = root / f"out{number}"
            command = [sys.executable, "-m", "a2s", "evaluate", "--pred", str(pred)]
            command += ["--truth", str(truth), "--out", str(out), "--workers", number]
            ours = timed(command)
            scores = json.loads((out / "scores.json").read_text())
            assert abs(scores["mae"] - mae) < 1e-12
            assert abs(scores["adaptive_f"] - adaptive_f) < 1e-12
            result[f"workers_{number}_wall_sec"] = round(ours.wall_sec, 2)
            result[f"workers_{number}_wall_speedup"] = round(loop.wall_sec / ours.wall_sec, 2)
            if number == "0":
                result["workers_0_cpu_sec"] = round(ours.cpu_sec, 2)
                result["workers_0_cpu_speedup"] = round(loop.cpu_sec / ours.cpu_sec, 2)
                result["workers_0_peak_mib"] = round(ours.peak_mib)
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=os.environ.get("A2S_SHARED", "../shared"))
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 200, 1000, 2000])
    parser.add_argument("--workers", nargs="+", default=["0", "2"])
    arguments = parser.parse_args()
    masks = (Path(arguments.shared) / "data" / "ecssd200" / "masks").resolve()
    results = []
    for num_pairs in arguments.pairs:
        results.append(compare(masks, num_pairs, workers=arguments.workers))
        print(results[-1], flush=True)
    path = REPO / "benchmarks" / "results" / "evaluate.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**describe_machine(), "runs": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
