"""Does online label rectifying help? Lambda and HMA with the settings that stage 2 has today.

    python benchmarks/rectifying.py --data DATA --labels LABELS --test DIR --truth DIR \
        --encoder NAME --weights FILE [--seeds 0] [--ways 0.4 1 hma 0 0.2 0.6 0.8] \
        [--epochs 6] --work DIR --out benchmarks/results/rectifying.json [--stage2 FLAG VALUE...]

A way is a lambda (0.4 is the default, 1 keeps the labels), or `hma`, for which `a2s stage2` and
`a2s hma` take turns. Each trains one detector per seed by the command line, and is scored on the
test images; so are the labels. The same command again goes on with what is not done.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import describe_machine

A2S = [sys.executable, "-m", "a2s"]
WAYS = ("0.4", "1", "hma", "0", "0.2", "0.6", "0.8")
SCORES = (
    "adaptive_f", "adaptive_f_touching", "adaptive_f_not_touching", "mean_f", "s_measure", "mae",
    "ring_share",
)  # fmt: skip


def a2s(*words: object) -> None:
    """Run a command, which must succeed."""
    subprocess.run([*A2S, *map(str, words)], check=True)


def epochs_done(run: Path) -> int:
    """Epochs that a run of stage 2 has committed."""
    last = max((run / "commits").glob("*.json"))
    epochs: int = json.loads(last.read_text(encoding="utf-8"))["state"]["epoch"]
    return epochs


def train(args: argparse.Namespace, way: str, seed: int, out: Path) -> None:
    """Train the detector of one way and seed."""
    rule = ["--rectify", "hma"] if way == "hma" else ["--lam", way]
    flags = ["--encoder.name", args.encoder, "--encoder.weights", args.weights, *args.stage2]
    inputs = ["--data", args.data, "--labels", args.labels]
    command = ["stage2", *inputs, "--out", out, "--epochs", args.epochs, *flags, *rule]
    if not (out / "commits").exists():
        a2s(*command, "--seed", seed)
    while epochs_done(out) < args.epochs:
        if way == "hma":  # stage 2 stops where it needs labels
            a2s("hma", "--run", out, *inputs, "--workers", 0)
        a2s(*command, "--seed", seed)


def scores(found: Path, truth: Path, out: Path) -> dict[str, float]:
    """Score masks or labels."""
    a2s("evaluate", "--pred", found, "--truth", truth, "--out", out, "--workers", 0)
    values = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    return {name: round(values[name], 4) for name in SCORES if name in values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "labels", "test", "truth", "weights", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--stage2", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for way in args.ways:
            work = args.work / f"{way}-{seed}"
            train(args, way, seed, work / "run")
            a2s("predict", args.test, "--model", work / "run", "--out", work / "p", "--workers", 0)
            found = scores(work / "p", args.truth, work / "e")
            rows.append({"lambda": way, "seed": seed, **found})
            print(rows[-1], flush=True)
            settings = {"epochs": args.epochs, "stage2": args.stage2}
            report = {**describe_machine(), **settings, "rows": rows}
            args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
