"""How far heads of stage 1 agree, and whether that tells the failed ones: the gate's calibration.

    python benchmarks/head_gate.py --images DIR --test DIR --truth DIR --encoder FILE \
        [--num-images 200] [--epochs 8] [--num-seeds 20] --out benchmarks/results/head_gate.json

Heads by the boundary loss (Eqn 4), one per seed, and two heads that learn from labels of RBD train
on the same features, as in `a2s stage1 --labels`. For every boundary head: its mean IoU with the
two over the images that they learned from, which decides whether it votes, and the adaptive F of
its maps on test images. A head has failed if its F is more than 0.1 below that of maps of RBD.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from stage1_prior import Pictures, Way, labels_of, thetas_of, train

from a2s.data.images import decode_mask, resize_rgb
from a2s.evaluation.metrics import binary_truth, score
from a2s.models.rbd import rbd, rbd_log_odds
from a2s.models.vote import agreement

FRAME, GATE = 64, 0.4
BOUNDARY = Way("boundary loss, frame", "boundary", frame=FRAME)
LABELS = Way("rbd, frame, crops", "rbd", frame=FRAME, crops=0.7)
PAPER = Way("boundary loss", "boundary")


def probability(thetas: list[Any]) -> torch.Tensor:
    """Votes of one head as probabilities. Shape: [N, h, w]."""
    return torch.from_numpy(np.stack(thetas)).sigmoid()


def map_f(maps_Nhw: torch.Tensor, truths: list[Any]) -> float:
    """Mean adaptive F of maps, scaled to the size of their truths."""
    found = []
    for map_hw, truth_HW in zip(maps_Nhw.numpy(), truths, strict=True):
        large = np.dstack([map_hw * 255] * 3).astype(np.uint8)
        height, width = truth_HW.shape
        resized = resize_rgb(large, height=height, width=width)[..., 0]
        found.append(score(resized.astype(np.float64) / 255, truth_HW).adaptive_f)
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("images", "test", "truth", "encoder", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--num-seeds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    learn = Pictures(args.images, args.encoder, at_most=args.num_images)
    test = Pictures(args.test, args.encoder, at_most=None)
    truths = [
        binary_truth(decode_mask((args.truth / f"{path.stem}.png").read_bytes()))
        for path in test.paths
    ]
    seeds = labels_of(learn, [rbd_log_odds(image) for image in learn.images], None)
    baseline = [torch.from_numpy(rbd(image)).float() for image in test.images]
    rbd_f = float(np.mean([map_f(m[None], [t]) for m, t in zip(baseline, truths, strict=True)]))
    valid = torch.ones(len(learn.images), dtype=torch.bool)
    with_labels = []
    for seed in (0, 1):
        head = train(LABELS, seed, learn, seeds, args.epochs)
        with_labels.append(probability(thetas_of([head], learn, LABELS)))
    rows: list[dict[str, Any]] = []
    for way in (BOUNDARY, PAPER):
        for seed in range(args.num_seeds):
            begun = time.process_time()
            head = train(way, seed, learn, None, args.epochs)
            mine = probability(thetas_of([head], learn, way))
            sums, counts = agreement(torch.stack([mine, *with_labels]), valid)
            iou = (sums / counts.clamp(min=1))[0, 1:].mean()
            row = {"way": way.name, "seed": seed, "agreement": round(float(iou), 4)}
            row["map_f"] = round(map_f(probability(thetas_of([head], test, way)), truths), 4)
            row["cpu_sec"] = round(time.process_time() - begun)
            rows.append(row)
            print(row, flush=True)
            failed = [r for r in rows if r["map_f"] < rbd_f - 0.1]
            result = {
                "machine": describe_machine(),
                "num_images": args.num_images,
                "epochs": args.epochs,
                "rbd_map_f": round(rbd_f, 4),
                "gate": GATE,
                "heads": len(rows),
                "failed": len(failed),
                "failed_but_kept": sum(r["agreement"] >= GATE for r in failed),
                "good_but_dropped": sum(r["agreement"] < GATE for r in rows if r not in failed),
                "rows": rows,
            }
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
