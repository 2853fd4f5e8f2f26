"""Variance of the scores of `real_run.py` over seeds, for stage 1 and its labels.

    python benchmarks/real_run_seeds.py --run runs/real --out runs/seeds [--seeds 1 2 3]

`--run` is the folder of a finished `real_run.py`: its shards are reused, and its scores are those
of seed 0. Runs the same settings with one seed after the other and scores them on 200 photographs
of ECSSD. Commands resume. Writes `benchmarks/results/real_run_seeds.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from machine import describe_machine

from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
RESULT = ROOT / "benchmarks" / "results" / "real_run_seeds.json"
NUMBERS = ("adaptive_f", "mean_f", "mae")


def a2s(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "a2s", *map(str, words)], check=True)


def scores(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "scores.json").read_text())
    return {name: round(found[name], 4) for name in NUMBERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    args = parser.parse_args()
    weights = SHARED / "encoders" / "mobilenet_v2_imagenet.safetensors"
    ecssd = SHARED / "data" / "ecssd200"
    settings = ["--config", ROOT / "benchmarks" / "real_run.yaml", "--encoder.weights", weights]
    found = {
        "0": {
            "maps": scores(args.run / "scores-stage1"),
            "labels": scores(args.run / "scores-labels"),
        }
    }
    for seed in args.seeds:
        out: Path = args.out / str(seed)
        one = ["--workers", 0]
        a2s("stage1", "--data", args.run / "msra", "--out", out / "s1", "--seed", seed, *settings)
        a2s("predict", "--model", out / "s1", "--out", out / "preds", ecssd / "images", *one)
        a2s("label", "--model", out / "s1", "--data", args.run / "ecssd", "--out", out / "labels",
            *one)  # fmt: skip
        for maps, into in (("preds", "scores"), ("labels", "lscores")):
            truth = ["--truth", ecssd / "masks"]
            a2s("evaluate", "--pred", out / maps, *truth, "--out", out / into, *one)
        found[str(seed)] = {"maps": scores(out / "scores"), "labels": scores(out / "lscores")}
        result = {
            "command": "python benchmarks/real_run_seeds.py --run RUN --out OUT --seeds "
            + " ".join(map(str, args.seeds)),
            **describe_machine(),
            "by_seed": found,
        }
        write_json(RESULT, result)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
