"""What stage 2 could learn by: losses, windows, schedules, averaged weights, at a small size.

    python benchmarks/stage2_trials.py --images DIR --labels LABELS --test DIR --truth DIR \
        --encoder FILE [--num-images 500] [--epochs 6] [--side 224] [--seeds 0] [--ways NAME...] \
        --out benchmarks/results/stage2_trials.json

Detectors (RAM) learn from label shards of the images, in memory and one image after the other, with
SGD, flips and online label rectifying (lambda 0.4, after one epoch) as `a2s stage2` does it; a way
changes one thing. For each the maps of the test images are scored, and the labels that dense CRF
and median make of them, also on the images whose object touches the border.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import describe_machine
from safetensors.torch import save_file
from stage1_prior import labels_of, scores_of
from torch import Tensor, nn

from a2s.data.images import decode, decode_mask, resize_rgb
from a2s.data.index import Index
from a2s.data.transforms import normalise
from a2s.evaluation.metrics import binary_truth, score
from a2s.labels.quality import border_contact
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.training.losses import detection_loss_per_image

BATCH, LR = 8, 0.005


@dataclass(frozen=True)
class Way:
    """What a way changes; `weights` are those of BCE, SSIM and IoU, `padding` is the decoder's."""

    name: str
    weights: tuple[float, float, float] = (1, 1, 1)
    windows: float = 0.0
    smallest: float = 0.5
    """Least side of a window as a share of the image's."""
    lam: float = 0.4
    cosine: bool = False
    average: float = 0.0
    """Factor of an exponential moving average of the weights."""
    lr: float = LR
    padding: str = "zeros"
    frame: int = 0
    """Reflected pixels around an image, in training and use."""
    consistency: float = 0.0
    """Weight of the squared difference to the map of the same image at another size."""
    best: float = 1.0
    """Share of the images to learn from, those with the best `quality`."""
    weigh: bool = False
    """Weigh an image's loss by its `quality`, divided by the mean."""
    encoder_rate: float = 0.1
    """Learning rate of the encoder as a share of the decoder's."""


WAYS = {
    way.name: way
    for way in (
        Way("default"),
        Way("bce+iou", weights=(1, 0, 1)),
        Way("windows", windows=0.7),
        Way("large windows", windows=0.5, smallest=0.8),
        Way("large windows, no olr", windows=0.5, smallest=0.8, lam=1),
        Way("no olr", lam=1),
        Way("cosine", cosine=True),
        Way("average", cosine=True, average=0.99),
        Way("average, no olr", cosine=True, average=0.99, lam=1),
        Way("twice the rate", cosine=True, average=0.99, lr=2 * LR),
        Way("replicate", cosine=True, average=0.99, padding="replicate"),
        Way("frame", cosine=True, average=0.99, frame=32),
        Way("consistency", cosine=True, average=0.99, consistency=1),
        Way("best 80 %", best=0.8),
        Way("weighed by quality", weigh=True),
        Way("frozen encoder", encoder_rate=0),
        Way("encoder at the full rate", encoder_rate=1),
    )
}


def read_labels(labels: Path, names: Sequence[str], side: int) -> tuple[Tensor, Tensor]:
    """Labels of images by name, and their quality. Shape: [N, side, side], [N]."""
    index = Index.load(labels)
    rows = index.rows_by_key()
    quality = torch.from_numpy(index.column("quality")[[rows[name] for name in names]].copy())
    masks = []
    for name in names:
        mask_HW = decode_mask(index.read(rows[name]))
        small = resize_rgb(np.dstack([mask_HW] * 3), height=side, width=side)[..., 0]
        masks.append(torch.from_numpy(small.astype(np.float32) / 255))
    return torch.stack(masks), quality.float()


def build(way: Way, encoder: str) -> Any:
    """Build an untrained detector."""
    network = Detector(load_encoder("mobilenet_v2", encoder)).train()
    for module in network.encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for module in network.decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = way.padding  # type: ignore[assignment]
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def logits_in_frame(network: Any, images: Tensor, frame: int) -> Tensor:
    """Logits of normalised images that stand inside a reflected frame meanwhile."""
    framed = F.pad(images, (frame,) * 4, mode="reflect") if frame else images
    logits: Tensor = network(framed.contiguous(memory_format=torch.channels_last))
    return logits[..., frame : logits.shape[2] - frame, frame : logits.shape[3] - frame].float()


def window_of(draws: np.random.Generator, size: int, least: float) -> tuple[slice, slice]:
    """Draw a window of a square, whose sides are at least `least` of the square's."""
    high, wide = (int(size * s) for s in draws.uniform(least, 1, 2))
    top, left = draws.integers(0, size - high + 1), draws.integers(0, size - wide + 1)
    return slice(top, top + high), slice(left, left + wide)


def scaled(x: Tensor, size: int) -> Tensor:
    """Scale a batch to a square of another size."""
    return F.interpolate(x, size=(size, size), mode="bilinear")


def train(
    way: Way,
    seed: int,
    images: Tensor,
    labels: Tensor,
    quality_N: Tensor,
    encoder: str,
    epochs: int,
) -> Any:
    """Train one detector; uint8 [N, 3, S, S] and [N, S, S]."""
    if way.best < 1:
        kept = quality_N.argsort(descending=True)[: round(way.best * len(quality_N))].sort().values
        images, labels, quality_N = images[kept], labels[kept], quality_N[kept]
    weight_N = quality_N / quality_N.mean() if way.weigh else torch.ones(len(quality_N))
    torch.manual_seed(seed)
    draws, size = np.random.default_rng(seed), images.shape[-1]
    network = build(way, encoder)
    groups = [
        {"params": network.encoder.parameters(), "scale": way.encoder_rate},
        {"params": network.decoder.parameters(), "scale": 1.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=way.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    averaged = copy.deepcopy(network)
    current, step = labels.clone(), 0
    steps = epochs * -(-len(images) // BATCH)
    milestones = max(1, round(epochs * 0.67)), max(2, round(epochs * 0.84))
    for epoch in range(epochs):
        order = draws.permutation(len(images))
        for first in range(0, len(order), BATCH):
            factor = 0.1 ** sum(epoch >= milestone for milestone in milestones)
            if way.cosine:
                warm = min(1, (step + 1) / 20)
                factor = warm * (1 + math.cos(math.pi * step / steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = way.lr * group["scale"] * factor
            step += 1
            optimizer.zero_grad()
            rows = torch.from_numpy(order[first : first + BATCH])
            x_B3SS, target_B1SS = normalise(images[rows]), current[rows][:, None].clone()
            whole_B = torch.ones(len(rows), dtype=torch.bool)
            for i in range(len(rows)):
                if draws.random() < way.windows:
                    whole_B[i], window = False, window_of(draws, size, way.smallest)
                    x_B3SS[i] = scaled(x_B3SS[i : i + 1, :, *window], size)[0]
                    target_B1SS[i] = scaled(target_B1SS[i : i + 1, :, *window], size)[0]
            flipped_B = torch.from_numpy(draws.random(len(rows)) < 0.5)[:, None, None, None]
            x_B3SS = torch.where(flipped_B, x_B3SS.flip(-1), x_B3SS)
            target_B1SS = torch.where(flipped_B, target_B1SS.flip(-1), target_B1SS)
            with torch.autocast("cpu", torch.bfloat16):
                logits = logits_in_frame(network, x_B3SS, way.frame)
            terms = detection_loss_per_image(logits, (target_B1SS > 0.5).float())
            loss = sum(
                w * (term * weight_N[rows]).mean()
                for w, term in zip(way.weights, terms, strict=True)
            )
            if way.consistency:
                other = int(draws.choice([size - 96, size - 64, size + 64]))
                with torch.autocast("cpu", torch.bfloat16):
                    again = logits_in_frame(network, scaled(x_B3SS, other), way.frame)
                again = scaled(again, size).sigmoid()
                loss = loss + way.consistency * F.mse_loss(again, logits.sigmoid())
            loss.backward()  # type: ignore[union-attr]
            if epoch >= 1 and way.lam < 1:
                found_BSS = logits.detach().sigmoid()
                found_BSS = torch.where(flipped_B, found_BSS.flip(-1), found_BSS)[:, 0]
                whole = rows[whole_B]
                current[whole] = way.lam * current[whole] + (1 - way.lam) * found_BSS[whole_B]
            optimizer.step()
            if way.average:
                share = 1 - min(way.average, (1 + step) / (10 + step))
                with torch.no_grad():
                    pairs = zip(averaged.parameters(), network.parameters(), strict=True)
                    for mean, new in pairs:
                        mean.lerp_(new, share)
    return (averaged if way.average else network).eval()


@torch.inference_mode()
def logits_of(network: Any, images: Tensor, frame: int) -> list[Any]:
    """Logits of every image, at the network's size."""
    found = []
    for row in range(len(images)):
        image = normalise(images[row : row + 1])
        found.append(logits_in_frame(network, image, frame)[0, 0].numpy())
    return found


class Folder:
    """Images of a folder at their own size, and as squares."""

    def __init__(self, folder: Path, *, side: int, at_most: int | None = None) -> None:
        """Read the first `at_most` images."""
        paths = sorted(path for path in folder.iterdir() if path.is_file())[:at_most]
        self.names = [path.stem for path in paths]
        self.images = [decode(path.read_bytes()) for path in paths]
        squares = [resize_rgb(image, height=side, width=side) for image in self.images]
        self.squares = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)


def scored(logits: list[Any], test: Folder, truths: list[Any]) -> dict[str, Any]:
    """Scores of maps, and of the labels that they make."""
    maps = []
    for logit_hw, truth in zip(logits, truths, strict=True):
        height, width = truth.shape
        map_hw = (1 / (1 + np.exp(-logit_hw)) * 255).astype(np.uint8)
        large = resize_rgb(np.dstack([map_hw] * 3), height=height, width=width)[..., 0]
        maps.append(large.astype(np.float64) / 255)
    results = [score(one, truth) for one, truth in zip(maps, truths, strict=True)]
    touches = np.array([border_contact(truth) > 0 for truth in truths])
    f_N = np.array([one.adaptive_f for one in results])
    values = {
        "adaptive_f": f_N.mean(),
        "mae": np.mean([one.mae for one in results]),
        "f_touching": f_N[touches].mean(),
        "f_others": f_N[~touches].mean(),
        "ring_share": np.mean([border_contact(one > 0.5) for one in maps]),
    }
    rounded = {name: round(float(value), 4) for name, value in values.items()}
    return {"maps": rounded, "labels": scores_of(labels_of(test, logits, None), truths)}  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("images", "labels", "test", "truth", "encoder", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--num-images", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--keep", type=Path, help="folder for the trained weights")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    learn = Folder(args.images, side=args.side, at_most=args.num_images)
    test = Folder(args.test, side=args.side)
    labels, quality_N = read_labels(args.labels, learn.names, args.side)
    truths = [
        binary_truth(decode_mask((args.truth / f"{name}.png").read_bytes())) for name in test.names
    ]
    rows: list[dict[str, Any]] = []
    for name in args.ways:
        for seed in args.seeds:
            begun = time.process_time()
            network = train(
                WAYS[name], seed, learn.squares, labels, quality_N, str(args.encoder), args.epochs
            )
            if args.keep:
                weights = {key: x.contiguous() for key, x in network.state_dict().items()}
                save_file(weights, args.keep / f"{name}_{seed}.safetensors")
            row = {"way": name, "seed": seed, "cpu_sec": round(time.process_time() - begun)}
            rows.append(
                row | scored(logits_of(network, test.squares, WAYS[name].frame), test, truths)
            )
            print(rows[-1], flush=True)
            settings = {k: getattr(args, k) for k in ("num_images", "epochs", "side")}
            text = json.dumps({**describe_machine(), **settings, "rows": rows}, indent=1)
            args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
