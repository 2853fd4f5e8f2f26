"""How far heads of stage 1 agree, and whether that tells the failed ones: the gate's calibration.

    python benchmarks/head_gate.py --images DIR --test DIR --truth DIR --encoder FILE \
        [--num-images 200] [--epochs 8] [--num-seeds 20] --out benchmarks/results/head_gate.json

Heads by the boundary loss (Eqn 4), one per seed, and two heads that learn from labels of RBD train
on the same features, as in `a2s stage1 --labels`. For every boundary head: its mean IoU with the
two over the images that they learned from, which decides whether it votes, and the adaptive F of
its maps on test images. A head has failed if its F is more than 0.1 below that of maps of RBD.

Since heads hardly ever fail by themselves, heads that are broken on purpose are judged as well: the
same maps inverted, those of other images, one Gaussian in the middle for all, half of the image,
noise, an untrained head, and heads at a learning rate at which some do fail.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
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

FRAME, GATE = 64, 0.54
BROKEN_RATES = (3.0, 10.0)
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


def broken_maps(learnt: torch.Tensor, tested: torch.Tensor) -> Iterator[tuple[str, Any, Any]]:
    """Name, and maps of both sets of images, of heads that are broken on purpose; [N, h, w]."""
    yield "inverted", 1 - learnt, 1 - tested
    yield "maps of other images", learnt.roll(1, 0), tested.roll(1, 0)
    draws = torch.Generator().manual_seed(0)
    noise = [torch.rand(maps.shape, generator=draws) for maps in (learnt, tested)]
    yield "noise", noise[0], noise[1]
    height, width = learnt.shape[1:]
    y_h1 = (torch.arange(height)[:, None] + 0.5) / height - 0.5
    x_w = (torch.arange(width) + 0.5) / width - 0.5
    for spread in (0.15, 0.25, 0.35):
        centre_hw = torch.exp(-(y_h1**2 + x_w**2) / (2 * spread**2))
        yield (
            f"Gaussian of {spread} in the middle",
            centre_hw.expand_as(learnt),
            centre_hw.expand_as(tested),
        )
    for name, half_hw in (("lower half", y_h1 > 0), ("left half", x_w < 0)):
        maps_hw = (half_hw.float() * 0.9 + 0.05).expand(height, width)
        yield name, maps_hw.expand_as(learnt), maps_hw.expand_as(tested)


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

    def judge(way: str, learnt: torch.Tensor, tested: torch.Tensor, **more: Any) -> None:
        """Add a row for a head with these maps, and write the table."""
        sums, counts = agreement(torch.stack([learnt, *with_labels]), valid)
        iou = (sums / counts.clamp(min=1))[0, 1:].mean()
        row = {"way": way, **more, "agreement": round(float(iou), 4)}
        rows.append({**row, "map_f": round(map_f(tested, truths), 4)})
        print(rows[-1], flush=True)
        failed = [r for r in rows if r["map_f"] < rbd_f - 0.1]
        result = {
            **describe_machine(),
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

    def judge_head(way: Way, seed: int, *, epochs: int, **more: Any) -> list[torch.Tensor]:
        begun = time.process_time()
        head = train(way, seed, learn, None, epochs)
        maps = [probability(thetas_of([head], pictures, way)) for pictures in (learn, test)]
        judge(way.name, *maps, seed=seed, **more, cpu_sec=round(time.process_time() - begun))
        return maps

    for way in (BOUNDARY, PAPER):
        for seed in range(args.num_seeds):
            maps = judge_head(way, seed, epochs=args.epochs)
            if way is BOUNDARY and seed == 0:
                for name, learnt, tested in broken_maps(*maps):
                    judge(f"broken: {name}", learnt, tested)
                for number in range(3):
                    judge_head(BOUNDARY, number, epochs=0, note="untrained")
        for rate in BROKEN_RATES:
            for seed in range(args.num_seeds // 4):
                judge_head(dataclasses.replace(way, lr=rate), seed, epochs=args.epochs, lr=rate)


if __name__ == "__main__":
    main()
