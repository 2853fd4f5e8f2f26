"""Accuracy of `a2s estimate`: predicted and actual seconds of `a2s label`, start-up included.

    python benchmarks/estimate.py --data DATA --model RUN [--rounds 2]

Measures threads and Ray processes alternately. DATA are data shards, RUN is a stage-1 run; use
about 1000 images. Writes `benchmarks/results/estimate.json`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe_machine

from a2s.commands import estimate
from a2s.config.commands import EstimateConfig
from a2s.data.index import Index
from a2s.labels.making.forecast import forecast
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 0.25


def labelled_sec(data: Path, model: Path, workers: int) -> float:
    """Run `a2s label` and return its seconds."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "a2s", "label", "--data", data, "--model", model]
        command += ["--out", Path(out) / "labels", "--workers", workers]
        started = time.monotonic()
        subprocess.run([*map(str, command)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    data, model = arguments.data.resolve(), arguments.model.resolve()
    index = Index.load(data)
    rows = []
    for _ in range(arguments.rounds):
        for workers in (0, len(os.sched_getaffinity(0))):
            settings = EstimateConfig(data=data, model=model, workers=workers)
            sample = estimate.measure(settings, index, num_images=len(index))
            expected = 3600 * forecast(sample, len(index)).wall_hours
            took = labelled_sec(data, model, workers)
            rows.append(
                {
                    "workers": workers,
                    "estimated_sec": round(expected, 2),
                    "labelled_sec": round(took, 2),
                    "off_by": round(expected / took - 1, 3),
                }
            )
            print(rows[-1], flush=True)
    result = {
        **describe_machine(),
        "command": "python benchmarks/estimate.py --data DATA --model RUN",
        "num_images": len(index),
        "rows": rows,
        "limit": LIMIT,
        "within_limit": all(abs(float(row["off_by"])) <= LIMIT for row in rows),
    }
    write_json(ROOT / "benchmarks" / "results" / "estimate.json", result)


if __name__ == "__main__":
    main()
