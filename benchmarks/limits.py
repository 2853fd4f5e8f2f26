"""What limits labels and detectors: heads, features, encoder, test-time votes, or the labels.

    python benchmarks/limits.py --images DIR --test DIR --truth DIR --encoder FILE --detector RUN \
        [--num-images 1000] [--epochs 8] --out benchmarks/results/limits.json

1. Oracle over heads: heads of every kind learn as stage 1 trains them; the best label of every test
   image, chosen by the truth, is what a perfect choice among them would reach.
2. Bound of the features: the same blocks learn from the *truth* of other test images (5 parts).
3. Votes at use: the detector's maps of both flips and several sizes, and with the heads.
4. Bound of the detector: it goes on learning from the *truth* of the other half of the test images.

Rows 2 and 4 and the oracle use the truth: nobody could have them. They say how far a target is from
what is possible.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe_machine
from stage1_prior import WAYS, Pictures, labels_of, scores_of, thetas_of
from stage1_prior import train as train_head
from stage2_trials import Folder, scored
from torch import Tensor

from a2s.data.images import decode_mask
from a2s.data.transforms import normalise
from a2s.evaluation.metrics import binary_truth, score
from a2s.models.rbd import rbd_log_odds
from a2s.models.saved import SavedNetwork
from a2s.training.losses import detection_loss_per_image

SIZES, SIDE, BATCH = (224, 256, 320), 256, 8
RBD_WAY, BOUNDARY_WAYS = WAYS[5], WAYS[:2]


def sigmoid(x: Any) -> Any:
    """Logistic function."""
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


def logit(p: Any) -> Any:
    """Inverse of the logistic function, finite."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p / (1 - p))


def mean_logits(kinds: Sequence[list[Any]]) -> list[Any]:
    """Log-odds of the mean probability of several maps of every image, at the first one's size."""
    found = []
    for maps in zip(*kinds, strict=True):
        size = maps[0].shape
        probabilities = [
            F.interpolate(torch.from_numpy(sigmoid(m))[None, None].float(), size, mode="bilinear")
            for m in maps
        ]
        found.append(logit(torch.cat(probabilities).mean(0)[0].numpy()))
    return found


def f_of(masks: Sequence[Any], truths: Sequence[Any]) -> Any:
    """Adaptive F of every label."""
    return np.array([score(m, t).adaptive_f for m, t in zip(masks, truths, strict=True)])


@torch.inference_mode()
def detector_logits(network: Any, squares: Tensor, *, size: int, flips: bool) -> list[Any]:
    """Logits of the images at a size, of both flips averaged if asked."""
    found = []
    for row in range(len(squares)):
        x = F.interpolate(
            normalise(squares[row : row + 1]), (size, size), mode="bilinear", antialias=True
        )
        a = network(x).float()[0, 0]
        if flips:
            b = network(x.flip(-1)).float()[0, 0].flip(-1)
            a = torch.logit((a.sigmoid() + b.sigmoid()) / 2, eps=1e-6)
        found.append(a.numpy())
    return found


def learn_from_truth(
    network: Any, images: Tensor, truths: Tensor, *, epochs: int, lr: float
) -> Any:
    """Go on training a detector on masks; uint8 [N, 3, S, S] and [N, S, S]."""
    torch.manual_seed(0)
    network, draws = copy.deepcopy(network).train(), np.random.default_rng(0)
    for module in network.encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    network.requires_grad_(True)
    groups = [
        {"params": list(network.encoder.parameters()), "scale": 0.1},
        {"params": list(network.decoder.parameters()), "scale": 1.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps, step = epochs * -(-len(images) // BATCH), 0
    for _ in range(epochs):
        order = draws.permutation(len(images))
        for first in range(0, len(order), BATCH):
            factor = min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"] * factor
            step += 1
            rows = torch.from_numpy(order[first : first + BATCH])
            x, target = normalise(images[rows]), truths[rows][:, None].float()
            flip = torch.from_numpy(draws.random(len(rows)) < 0.5)[:, None, None, None]
            x, target = torch.where(flip, x.flip(-1), x), torch.where(flip, target.flip(-1), target)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(x.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            terms = detection_loss_per_image(logits.float(), target)
            sum(term.mean() for term in terms).backward()  # type: ignore[union-attr]
            optimizer.step()
    return network.eval()


def main() -> None:
    """Write the table after each row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("images", "test", "truth", "encoder", "detector", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    args = parser.parse_args()
    torch.set_num_threads(1)
    test = Pictures(args.test, args.encoder, at_most=None)
    masks = [decode_mask((args.truth / f"{p.stem}.png").read_bytes()) for p in test.paths]
    truths = [binary_truth(mask) for mask in masks]
    rows: list[dict[str, Any]] = []

    def add(way: str, values: dict[str, Any], **more: Any) -> None:
        rows.append({"way": way, **more, **values})
        print(rows[-1], flush=True)
        record = {**describe_machine(), "num_images": args.num_images, "epochs": args.epochs}
        args.out.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")

    # 3: votes at use.
    saved = SavedNetwork.find(args.detector)
    network: Any = saved.load().eval()
    network.to(memory_format=torch.channels_last)
    folder = Folder(args.test, side=320)
    by_size = {}
    for size in SIZES:
        by_size[size] = detector_logits(network, folder.squares, size=size, flips=True)
        add(f"detector at {size}, both flips", scored(by_size[size], folder, truths))
    every = mean_logits(list(by_size.values()))
    add("detector at all sizes, both flips", scored(every, folder, truths))

    # 2: the blocks on the truth of other test images.
    found: list[Any] = [None] * len(truths)
    parts = np.array_split(np.random.default_rng(0).permutation(len(truths)), 5)
    for part in parts:
        others = np.setdiff1d(np.arange(len(truths)), part)
        learn = copy.copy(test)
        learn._features = {RBD_WAY.frame: [tap[others] for tap in test.features(RBD_WAY.frame)]}
        targets = [(truths[i] * 255).astype(np.uint8) for i in others]
        head = train_head(RBD_WAY, 0, learn, targets, 500 * args.epochs // len(others))
        thetas = thetas_of([head], test, RBD_WAY)
        for i in part:
            found[i] = thetas[i]
    add(
        "blocks that learned from truth of 160 images",
        scores_of(labels_of(test, found, None), truths),
    )

    # 1: heads, their vote, the oracle.
    learn = Pictures(args.images, args.encoder, at_most=args.num_images)
    seeds = labels_of(learn, [rbd_log_odds(image) for image in learn.images], None)
    kinds: dict[str, list[list[Any]]] = {}
    f_by_head = []
    for way in (*BOUNDARY_WAYS, RBD_WAY):
        kinds[way.name] = []
        for seed in args.seeds:
            labels = seeds if way is RBD_WAY else None
            head = train_head(way, seed, learn, labels, args.epochs)
            thetas = thetas_of([head], test, way)
            kinds[way.name].append(thetas)
            made = labels_of(test, thetas, None)
            f_by_head.append(f_of(made, truths))
            add(way.name, scores_of(made, truths), seed=seed)
        learn._features.clear()
    plain, framed, learned = kinds.values()
    votes = {
        "vote: 1 boundary with frame, 2 with labels": [
            mean_logits(framed[:1]),
            mean_logits(learned),
        ],
        "vote: 2 boundary with frame, 2 with labels": [mean_logits(framed), mean_logits(learned)],
        "vote: 2 boundary without frame, 2 with labels": [mean_logits(plain), mean_logits(learned)],
        "vote: 4 boundary, 2 with labels": [mean_logits([*plain, *framed]), mean_logits(learned)],
    }
    for name, members in votes.items():
        add(name, scores_of(labels_of(test, mean_logits(members), None), truths))
    heads = [mean_logits([*plain, *framed]), mean_logits(learned)]
    for name, members in {
        "vote: heads and detector": [mean_logits(heads), by_size[SIDE]],
        "vote: heads and detector at all sizes": [mean_logits(heads), every],
    }.items():
        made = labels_of(test, mean_logits(members[::-1]), None)
        add(name, scores_of(made, truths))
    best = np.max(f_by_head, axis=0)
    add(f"oracle: the best of {len(f_by_head)} heads", {"adaptive_f": round(float(best.mean()), 4)})

    # 4: the detector on the truth of the other half.
    squares = Folder(args.test, side=SIDE).squares
    small = F.interpolate(
        torch.stack([
            F.interpolate(torch.from_numpy(t)[None, None].float(), (SIDE, SIDE), mode="area")[0, 0]
            for t in truths
        ])[:, None], (SIDE, SIDE),
    )[:, 0] > 0.5  # fmt: skip
    halves = np.array_split(np.random.default_rng(0).permutation(len(truths)), 2)
    logits: list[Any] = [None] * len(truths)
    for half, other in (halves, halves[::-1]):
        tuned = learn_from_truth(network, squares[other], small[other], epochs=12, lr=0.002)
        for i, values in zip(
            half, detector_logits(tuned, squares[half], size=SIDE, flips=True), strict=True
        ):
            logits[i] = values
    add("detector that went on with truth of 100 images", scored(logits, folder, truths))


if __name__ == "__main__":
    main()
