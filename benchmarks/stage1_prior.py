"""What stage 1 should learn from, and what keeps the image's border out of it.

    python benchmarks/stage1_prior.py --images DIR --test DIR --truth DIR --encoder FILE \
        [--num-images 500] [--epochs 8] [--seeds 0 1 2] --out benchmarks/results/stage1_prior.json

Heads train on features in memory at fusion stride 8, one at a time, by the losses and on the
windows of `a2s stage1`. For every way and seed the labels of the test images are scored (both
flips, dense CRF, median), also on the images whose object touches the border; the last row of a
way is the vote of its seeds. `round 2` learns from the labels that the vote of the way before it
makes of the training images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from torch import Tensor

from a2s.data.images import decode, decode_mask, resize_rgb
from a2s.data.transforms import crop_cells, draw_window, normalise
from a2s.evaluation.metrics import binary_truth, score
from a2s.labels.crf.backends import crf_of
from a2s.labels.crf.energy import CrfParams, energy_of
from a2s.labels.quality import border_contact
from a2s.labels.refine import Recipe, refine
from a2s.models.activation_net import ActivationNet
from a2s.models.encoder_weights import load_encoder
from a2s.models.heads import ActivationBlocks
from a2s.models.rbd import rbd_log_odds
from a2s.models.vote import mean_vote, probabilities
from a2s.training.learning_rate import learning_rate
from a2s.training.losses import adb_loss, label_loss_per_image, map_terms

SIDE, BATCH, STRIDES = 320, 8, (8, 16, 32)
WEIGHT_K = torch.tensor([1.0, 0.1, 0.3, 0.5])
Taps = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Way:
    """One way to train a head."""

    name: str
    learns_from: str
    """`boundary` (Eqn 4), `rbd`, or `round 2`."""
    frame: int = 0
    crops: float = 0.0
    lr: float | None = None
    """Learning rate, if not that of `a2s stage1`."""


WAYS = (
    Way("paper: boundary loss", "boundary"),
    Way("boundary loss, frame", "boundary", frame=64),
    Way("rbd", "rbd"),
    Way("rbd, frame", "rbd", frame=64),
    Way("rbd, crops", "rbd", crops=0.7),
    Way("rbd, frame, crops", "rbd", frame=64, crops=0.7),
    Way("round 2, frame, crops", "round 2", frame=64, crops=0.7),
)


class Pictures:
    """Images of a folder, and their features by frame, both flips."""

    def __init__(self, folder: Path, encoder: Path, *, at_most: int | None) -> None:
        """Read the first `at_most` images of the folder."""
        self.paths = sorted(path for path in folder.iterdir() if path.is_file())[:at_most]
        self.images = [decode(path.read_bytes()) for path in self.paths]
        self.encoder = encoder
        self._features: dict[int, list[Tensor]] = {}

    def features(self, frame: int) -> list[Tensor]:
        """E3, E4, E5 as float16. Shape: [N, 2, C, h, w] each."""
        if frame not in self._features:
            encoder = load_encoder("mobilenet_v2", str(self.encoder))
            net = ActivationNet(encoder, fusion_stride=8, frame=frame).eval()
            taps = []
            with torch.inference_mode():
                for image_HW3 in self.images:
                    small = torch.from_numpy(resize_rgb(image_HW3, height=SIDE, width=SIDE))
                    image_13SS = small.permute(2, 0, 1)[None]
                    both = normalise(torch.cat([image_13SS, image_13SS.flip(-1)]))
                    taps.append([tap.half() for tap in net.encode(both)])
            self._features[frame] = [torch.stack(parts) for parts in zip(*taps, strict=True)]
        return self._features[frame]


def labels_of(pictures: Pictures, thetas: Sequence[Any], sign_tie: int | None) -> list[Any]:
    """Labels of all images: CRF and median at their own size."""
    recipe = Recipe(energy_of("hard"), crf_of("numba"), CrfParams(), sign_tie=sign_tie)
    return [
        refine(image_HW3, theta_hw, recipe=recipe).mask_HW
        for image_HW3, theta_hw in zip(pictures.images, thetas, strict=True)
    ]


def train(way: Way, seed: int, pictures: Pictures, labels: list[Any] | None, epochs: int) -> Any:
    """Train one head."""
    torch.manual_seed(seed)
    features = pictures.features(way.frame)
    boundary = "adb" if labels is None else "trained"
    channels = (features[0].shape[2], features[1].shape[2], features[2].shape[2])
    head = ActivationBlocks(channels, fusion_stride=8, boundary=boundary)
    lr = way.lr or (1.0 if labels is None else 0.05)
    optimizer = torch.optim.SGD(
        head.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    targets = None
    if labels is not None:
        small = [resize_rgb(np.dstack([m] * 3), height=SIDE, width=SIDE)[..., 0] for m in labels]
        targets = torch.from_numpy(np.stack(small)).float()[:, None] / 255
    draws, cells = np.random.default_rng(seed), SIDE // STRIDES[-1]
    milestones = (round(epochs * 0.5), round(epochs * 0.8))
    for epoch in range(1, epochs + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(epoch, lr=lr, milestones=milestones)
        order = draws.permutation(len(features[0]))
        for step, first in enumerate(range(0, len(order), BATCH)):
            rows = torch.from_numpy(order[first : first + BATCH])
            flips = torch.from_numpy(draws.integers(0, 2, len(rows)))
            e3, e4, e5 = (tap[rows, flips].float() for tap in features)
            if targets is None:
                maps = head(e3, e4, e5, size=(SIDE, SIDE))
                valid = torch.ones(len(rows), dtype=torch.bool)
                terms = map_terms(maps, valid, None, side=SIDE, alpha=0.1)
                loss = adb_loss(terms.numerator_K, terms.num_kept_K, WEIGHT_K)
            else:
                share = way.crops if epoch < epochs else 0.0
                window = draw_window(
                    seed=seed, epoch=epoch, step=step, cells=(cells, cells), share=share
                )
                e3, e4, e5 = (
                    crop_cells(tap, window, cell=32 // stride)
                    for tap, stride in zip((e3, e4, e5), STRIDES, strict=True)
                )
                target = targets[rows]
                target = torch.where(flips.view(-1, 1, 1, 1) > 0, target.flip(-1), target)
                target = crop_cells(target, window, cell=32)
                maps = head(e3, e4, e5, size=(target.shape[2], target.shape[3]))
                loss = label_loss_per_image(maps, target, WEIGHT_K).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head.eval()


@torch.inference_mode()
def thetas_of(heads: Sequence[Any], pictures: Pictures, way: Way) -> list[Any]:
    """Votes of the heads over both flips, as `a2s label` averages them."""
    sign_tie = 1 if way.learns_from == "boundary" else None
    features = pictures.features(way.frame)
    found = []
    for row in range(len(features[0])):
        e3, e4, e5 = (tap[row].float() for tap in features)
        maps = []
        for head in heads:
            theta = head(e3, e4, e5, size=(SIDE, SIDE)).theta
            maps += [
                probabilities(theta[:1], sign_tie=sign_tie),
                probabilities(theta[1:], sign_tie=sign_tie).flip(-1),
            ]
        found.append(mean_vote([maps])[0, 0].numpy())
    return found


def scores_of(masks: Sequence[Any], truths: Sequence[Any]) -> dict[str, float]:
    """Mean scores of labels, also by whether the object touches the border."""
    pairs = list(zip(masks, truths, strict=True))
    f_N = np.array([score(mask, truth).adaptive_f for mask, truth in pairs])
    touches_N = np.array([border_contact(truth) > 0 for truth in truths])
    values = {
        "adaptive_f": f_N.mean(),
        "mae": np.mean([score(mask, truth).mae for mask, truth in pairs]),
        "f_touching": f_N[touches_N].mean(),
        "f_others": f_N[~touches_N].mean(),
        "ring_share": np.mean([border_contact(mask > 0) for mask in masks]),
        "truth_ring_share": np.mean([border_contact(truth) for truth in truths]),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def main() -> None:
    """Train and score all ways, and write the table after each row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("images", "test", "truth", "encoder", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    learn = Pictures(args.images, args.encoder, at_most=args.num_images)
    test = Pictures(args.test, args.encoder, at_most=None)
    truths = [
        binary_truth(decode_mask((args.truth / f"{path.stem}.png").read_bytes()))
        for path in test.paths
    ]
    seeds = labels_of(learn, [rbd_log_odds(image) for image in learn.images], None)
    of_rbd = labels_of(test, [rbd_log_odds(image) for image in test.images], None)
    rows: list[dict[str, Any]] = [{"way": "labels of rbd", **scores_of(of_rbd, truths)}]
    voted: list[Any] = []
    for way in WAYS:
        labels = {"boundary": None, "rbd": seeds, "round 2": voted}[way.learns_from]
        heads, sign_tie = [], 1 if way.learns_from == "boundary" else None
        for seed in args.seeds:
            begun = time.process_time()
            heads.append(train(way, seed, learn, labels, args.epochs))
            row = {"way": way.name, "seed": seed, "cpu_sec": round(time.process_time() - begun)}
            made = labels_of(test, thetas_of(heads[-1:], test, way), sign_tie)
            rows.append({**row, **scores_of(made, truths)})
            print(rows[-1], flush=True)
        # The vote's sign is known, also that of heads that had to be aligned.
        rows.append({"way": way.name, "seed": "vote of all"})
        rows[-1] |= scores_of(labels_of(test, thetas_of(heads, test, way), None), truths)
        print(rows[-1], flush=True)
        if way == WAYS[-2]:
            voted = labels_of(learn, thetas_of(heads, learn, way), None)
        record = {**describe_machine(), "num_images": len(learn.images), "epochs": args.epochs}
        args.out.write_text(json.dumps({**record, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
