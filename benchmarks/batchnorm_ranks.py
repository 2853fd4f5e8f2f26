"""Effect of training BatchNorm on the equality of N ranks and one.

    python benchmarks/batchnorm_ranks.py [--worlds 1 2 3] [--epochs 2] [--encoder FILE]

Runs stage 2 on drawn scenes with real gloo ranks for each setting of `batchnorm` and number of
ranks (also MINet, whose own BatchNorm always trains). Reports the differences of weights and
rectified labels from those of one rank. Training amplifies rounding errors, so a control shows by
how much: one rank again, with two threads instead of one. Writes
`benchmarks/results/batchnorm_ranks.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import describe_machine
from safetensors.numpy import load_file

from a2s.data.synthetic import render_folder
from a2s.labels.store.generations import Generation

RESULT = Path(__file__).parent / "results" / "batchnorm_ranks.json"
BATCH = 6


def launch(arguments: list[str], world: int, *, threads: int = 1) -> None:
    """Run `a2s ARGUMENTS` on `world` CPU ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    base = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads)}
    ranks = []
    for rank in range(world):
        launcher = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        command = [sys.executable, "-m", "a2s", *arguments]
        env = base | (launcher if world > 1 else {})
        ranks.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))
    if any([rank.wait(timeout=600) for rank in ranks]):
        sys.exit(f"a2s {' '.join(arguments)} failed")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--encoder", default="none", help="weights of MobileNetV2")
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        render_folder(root, num_train=24, num_test=1, side_px=192, seed=1)
        data, s1, labels = root / "data", root / "s1", root / "labels"
        encoder = ["--encoder.name", "mobilenet_v2", "--encoder.weights", options.encoder]
        small = ["--image-size", "160", "--batch-size", str(BATCH), "--loader-workers", "0"]
        launch(["shard", str(root / "train"), "--out", str(data)], 1)
        launch(["stage1", "--data", str(data), "--out", str(s1), *encoder, *small,
                "--epochs", "2", "--cache-gib", "0"], 1)  # fmt: skip
        launch(["label", "--model", str(s1), "--data", str(data), "--out", str(labels)], 1)
        for detector, batchnorm in (("ram", "frozen"), ("ram", "train"), ("minet", "frozen")):
            first = root / f"{detector}-{batchnorm}-1-1"
            for world, threads in [(1, 1), (1, 2), *((n, 1) for n in options.worlds if n > 1)]:
                out = root / f"{detector}-{batchnorm}-{world}-{threads}"
                launch(
                    ["stage2", "--data", str(data), "--labels", str(labels), "--out", str(out),
                     *encoder, *small, "--batchnorm", batchnorm, "--detector", detector,
                     "--warm-epochs", "1",
                     "--epochs", str(options.epochs)], world, threads=threads)  # fmt: skip
                rows.append(
                    {"detector": detector, "batchnorm": batchnorm}
                    | {"ranks": world, "threads_per_rank": threads}
                    | compare(first, out, generation=options.epochs - 1)
                )
                print(rows[-1], flush=True)
    RESULT.parent.mkdir(exist_ok=True)
    document = {
        **describe_machine(),
        "worlds": options.worlds,
        "epochs": options.epochs,
        "encoder": Path(options.encoder).name,
        "what": "differences to one rank with one thread",
        "batch_size": BATCH,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


def compare(one: Path, many: Path, *, generation: int) -> dict[str, float]:
    """Largest differences of the final weights and of the last label generation."""
    first, second = (
        load_file(max((run / "checkpoints").iterdir()) / "model.safetensors") for run in (one, many)
    )
    weights = max(float(np.abs(first[name] - second[name]).max()) for name in first)
    a, b = (Generation.load(run / "labels", generation) for run in (one, many))
    gaps = [np.abs(a.read(row) - b.read(row)) for row in np.flatnonzero(a.has_label_N)]
    return {
        "weights_max_difference": weights,
        "labels_max_difference": float(max(gap.max() for gap in gaps)),
        "labels_mean_difference": float(np.mean([gap.mean() for gap in gaps])),
    }


if __name__ == "__main__":
    main()
