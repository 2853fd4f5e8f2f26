"""Stage 1 with cached features compared with the authors' loop, by encoder and fusion stride.

    python benchmarks/feature_cache.py [--steps 3] [--threads 2] [--device cuda]

Each epoch the authors run the encoder forward in training mode and backward (its learning rate is
0), and concatenate upsampled maps before a plain convolution. Both loops alternate in one process
on the same images, without reading and decoding; a few steps are timed and scaled to 1000 images.
Use wall time on an idle machine, CPU time on a busy one. Writes
`benchmarks/results/feature_cache.json`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import describe_machine
from torch import Tensor

from a2s.data.transforms import draw_keep_words, normalise
from a2s.models.activation_net import ActivationNet
from a2s.models.blocks import upsample
from a2s.models.boundary import BOUNDARIES, decide
from a2s.models.encoders import build_encoder
from a2s.models.heads import ActivationMaps
from a2s.training.features.file_cache import FeatureCache
from a2s.training.losses import adb_loss, map_terms

RESULT = Path(__file__).parent / "results" / "feature_cache.json"
WEIGHTS = torch.tensor([1.0, 0.1, 0.3, 0.5])
NUM_IMAGES = 1000


def loss_of(maps: ActivationMaps, *, size: int) -> Tensor:
    """Loss of one rank, the same in both loops."""
    valid = torch.ones(len(maps.theta), dtype=torch.bool, device=maps.theta.device)
    sides = [(size, size)] + [(theta.shape[2], theta.shape[3]) for theta in maps[1:]]
    keys = torch.arange(len(valid))
    keep = draw_keep_words(seed=0, epoch=1, key_hash_B=keys, sides=sides).to(valid.device)
    terms = map_terms(maps, valid, keep, side=size, alpha=0.1)
    return adb_loss(terms.numerator_K, terms.num_kept_K, WEIGHTS.to(valid.device))


def joined_maps(net: ActivationNet, image: Tensor, *, size: int) -> ActivationMaps:
    """Compute the maps like the authors: upsample, concatenate, then convolve."""
    blocks = net.heads[0]
    _, _, e3, e4, e5 = net.encoder(image)
    features = (blocks.se3(e3), blocks.se4(e4), blocks.se5(e5))
    side = size // blocks.fusion_stride
    joined = torch.cat([upsample(feature, (side, side)) for feature in features], dim=1)
    adb = BOUNDARIES["adb"]
    return ActivationMaps(*(decide(f, adb) for f in (blocks.se0(joined), *features)))


def timed(step: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Wall and CPU seconds of one step."""
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, stride: int, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    device, size = torch.device(args.device), args.image
    torch.manual_seed(0)
    net = ActivationNet(build_encoder(name), fusion_stride=stride).to(device)
    images = torch.randint(0, 256, (args.batch, 3, size, size), dtype=torch.uint8, device=device)
    cache = FeatureCache(
        folder,
        made_from={"data": "random", "encoder": f"{name}, seed 0", "stride": str(stride)},
        num_images=args.batch,
        image_size=size,
        channels=net.encoder.channels[2:],
        dtype=torch.float16,
        budget_bytes=1 << 33,
    )

    def fetch() -> tuple[Tensor, Tensor, Tensor]:
        return cache.fetch(
            images,
            rows=list(range(args.batch)),
            mirrored=[False] * args.batch,
            encode=lambda image: net.encode(normalise(image)),
            read_image=lambda row: images[row],
        )

    def fill() -> None:
        fetch()

    trained = torch.optim.SGD(net.heads[0].parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    both = torch.optim.SGD(
        [{"params": net.heads[0].parameters()}, {"params": net.encoder.parameters(), "lr": 0.0}],
        lr=1e-3,
        momentum=0.9,
        nesterov=True,
    )

    def cached_step() -> None:
        net.encoder.requires_grad_(False).eval()
        maps = net.maps_of(*fetch(), size=(size, size))
        trained.zero_grad(set_to_none=True)
        loss_of(maps, size=size).backward()
        trained.step()

    def authors_step() -> None:
        net.encoder.requires_grad_(True).train()
        maps = joined_maps(net, normalise(images), size=size)
        both.zero_grad(set_to_none=True)
        loss_of(maps, size=size).backward()
        both.step()

    first = timed(fill, device)
    times: dict[str, list[tuple[float, float]]] = {"cached": [], "authors": []}
    for repeat in range(args.steps + 1):
        for label, step in (("cached", cached_step), ("authors", authors_step)):
            measured = timed(step, device)
            # The first step of each loop is a warm-up.
            if repeat:
                times[label].append(measured)
    steps = NUM_IMAGES / args.batch
    result = {"encode_once_sec": round(first[0] * steps, 1)}
    for label, values in times.items():
        result[f"{label}_sec_per_epoch"] = round(statistics.median(v[0] for v in values) * steps, 1)
        result[f"{label}_cpu_sec_per_epoch"] = round(
            statistics.median(v[1] for v in values) * steps, 1
        )
    for kind in ("", "cpu_"):
        ratio = result[f"authors_{kind}sec_per_epoch"] / result[f"cached_{kind}sec_per_epoch"]
        result[f"{kind}ratio"] = round(ratio, 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--image", type=int, default=320)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoders", nargs="+", default=["mobilenet_v2", "resnet50"])
    parser.add_argument("--strides", nargs="+", type=int, default=[8, 4, 2])
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.encoders:
            for stride in args.strides:
                label = f"{name}, fusion stride {stride}"
                results[label] = measure(name, stride, args, Path(folder))
                print(label, results[label], flush=True)
    settings = {name: str(value) for name, value in vars(args).items() if name != "out"}
    record = {"machine": describe_machine(), "settings": settings, "results": results}
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
