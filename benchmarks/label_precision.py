"""`a2s label` on one CPU core: where its time goes, and what lower precision would change.

    taskset -c 1 python benchmarks/label_precision.py [--count 100] [--network detector] \
        [--compile] --out benchmarks/results/label_precision.json

Photographs with masks are labelled as `a2s label` does, image by image, with the network in several
ways in turns. Per image: CPU time of every part; and, against float32, the intersection over union
of the labels and their F.

- `float32`: what `a2s label` uses: BatchNorm folded, oneDNN with weights that are reordered once.
- `clamped`: the same, ReLU6 inside the convolution before it.
- `bfloat16`: autocast, channels last.
- `bfloat16 encoder`: convolutions of the encoder as in `clamped`, in bfloat16; heads in float32.
- `int8 encoder`: the encoder quantised for x86 by `torch.ao`, calibrated with 32 photographs.
- `compiled`: float32 by torch's compiler (inductor, frozen weights), with `--compile`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from a2s.config.base import RefineConfig
from a2s.data.images import decode, decode_mask, encode_png
from a2s.labels.quality import thumbnail
from a2s.labels.recipe import recipe_of, with_backend
from a2s.labels.refine import median_and_quality, probability, shrink_for_crf
from a2s.models import prepare
from a2s.models.bundled import bundled
from a2s.models.inference import InferenceModel
from a2s.models.saved import SavedNetwork
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
CALIBRATED = 32
NOTHING: tuple[str, list[float], str] = ("none", [], "")
CLAMP = ("hardtanh", [0.0, 6.0], "")


class Convolution(nn.Module):
    """A convolution of oneDNN in some type, with what follows it."""

    def __init__(self, conv: nn.Conv2d, after: tuple[str, list[float], str], dtype: torch.dtype):
        super().__init__()
        self.weight = conv.weight.detach().to(dtype)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self.arguments = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self.after, self.reordered = after, dict[torch.Size, Tensor]()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve."""
        x_BCHW, onednn = x_BCHW.to(self.weight.dtype), torch.ops.mkldnn
        if x_BCHW.shape not in self.reordered:
            self.reordered[x_BCHW.shape] = onednn._reorder_convolution_weight(
                self.weight, *self.arguments, x_BCHW.shape
            )
        weight = self.reordered[x_BCHW.shape]
        result: Tensor = onednn._convolution_pointwise(
            x_BCHW, weight, self.bias, *self.arguments, *self.after
        )
        return result


def by_onednn(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace convolutions, and ReLU6 after them, in place."""
    children = [(n, c) for n, c in module.named_children() if not isinstance(c, nn.Identity)]
    followers = [*children[1:], ("", nn.Identity())]
    for (name, child), (next_name, following) in zip(children, followers, strict=False):
        if type(child) is nn.Conv2d:
            clamps = isinstance(following, nn.ReLU6) and isinstance(module, nn.Sequential)
            setattr(module, name, Convolution(child, CLAMP if clamps else NOTHING, dtype))
            if clamps:
                setattr(module, next_name, nn.Identity())
        else:
            by_onednn(child, dtype)


def in_channels_last(saved: SavedNetwork) -> Any:
    """The network with BatchNorm folded, and torch's own convolutions."""
    prepare.disable_tf32()
    network: Any = saved.load().eval()
    network.encoder = prepare.folded(network.encoder)
    return network.to(memory_format=torch.channels_last)


def with_encoder(saved: SavedNetwork, dtype: torch.dtype) -> InferenceModel:
    """`clamped`, and `bfloat16 encoder`."""
    network = in_channels_last(saved)
    by_onednn(network.encoder, dtype)
    forward = network.encoder.forward
    network.encoder.forward = lambda image: tuple(tap.float() for tap in forward(image))
    others = network.heads if hasattr(network, "heads") else network.decoder
    prepare.use_onednn(others)
    return InferenceModel(network)


def with_int8(saved: SavedNetwork, images: Sequence[np.ndarray[Any, Any]]) -> InferenceModel:
    """`int8 encoder`."""
    network: Any = in_channels_last(saved)
    blocks = saved.load().eval().encoder.features  # type: ignore[union-attr]
    stages = nn.ModuleList(
        blocks[a:b]  # type: ignore[index, misc]
        for a, b in ((0, 2), (2, 4), (4, 7), (7, 14), (14, None))
    )

    class Taps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = stages

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            taps = []
            for stage in self.stages:
                x = stage(x)
                taps.append(x)
            return tuple(taps)

    example = torch.zeros(1, 3, 448, 448)
    trial = prepare_fx(Taps().eval(), get_default_qconfig_mapping("x86"), (example,))
    network.encoder.forward = trial.forward
    model = InferenceModel(network)
    for image in images:
        model.maps(image[None])
    network.encoder.forward = convert_fx(trial).forward
    prepare.use_onednn(network.heads if hasattr(network, "heads") else network.decoder)
    return InferenceModel(network)


def f_measure(mask: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    hits = float((mask & truth).sum())
    precision, recall = hits / max(1.0, float(mask.sum())), hits / max(1.0, float(truth.sum()))
    return 1.3 * precision * recall / max(1e-9, 0.3 * precision + recall)


class Clock:
    """CPU seconds by part, of each call."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, part: str, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a function."""
        began = time.process_time()
        result = function(*args, **named)
        self.seconds.setdefault(part, []).append(time.process_time() - began)
        return result

    def medians_ms(self) -> dict[str, float]:
        """Milliseconds by part."""
        return {
            part: round(1000 * statistics.median(v), 2) for part, v in sorted(self.seconds.items())
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--network", choices=("activation", "detector"), default="activation")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    saved = bundled(args.network)
    folder = SHARED / "data" / "ecssd200"
    files = sorted((folder / "images").iterdir())
    files = files[:: max(1, len(files) // args.count)][: args.count]
    resized = [saved.trained_input.resize(decode(file.read_bytes())) for file in files]
    shipped = saved.load()
    prepare.prepare_for_inference(shipped, "cpu")
    autocast = InferenceModel(in_channels_last(saved))

    def in_bfloat16(image_13SS: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.autocast("cpu", torch.bfloat16):
            return autocast.maps(image_13SS)

    ways: dict[str, Callable[[Any], Any]] = {
        "float32": InferenceModel(shipped).maps,
        "clamped": with_encoder(saved, torch.float32).maps,
        "bfloat16": in_bfloat16,
        "bfloat16 encoder": with_encoder(saved, torch.bfloat16).maps,
        "int8 encoder": with_int8(saved, resized[:: max(1, len(resized) // CALIBRATED)]).maps,
    }
    if args.compile:
        from torch._inductor import config as inductor

        inductor.freezing = True
        plain: Any = in_channels_last(saved)
        plain.encoder.forward = torch.compile(plain.encoder.forward)
        prepare.use_onednn(plain.heads if hasattr(plain, "heads") else plain.decoder)
        ways["compiled"] = InferenceModel(plain).maps
    refine = with_backend(RefineConfig(), on_gpu=lambda: False)
    recipe = recipe_of(refine, sign_tie=saved.sign_tie)
    clock, unions, scores = Clock(), {w: [] for w in ways}, {w: [] for w in ways}  # type: ignore[var-annotated]
    for way in ways.values():
        way(resized[0][None])
    for number, (file, image_SS3) in enumerate(zip(files, resized, strict=True)):
        if number == 1:
            clock.seconds.clear()  # The first one compiles the CRF.
        image_HW3 = clock("decode", decode, file.read_bytes())
        clock("resize", saved.trained_input.resize, image_HW3)
        truth_HW = decode_mask((folder / "masks" / f"{file.stem}.png").read_bytes()) > 128
        height, width = image_HW3.shape[:2]
        masks = {}
        for name, way in ways.items():
            theta_hw = clock(f"network, {name}", way, image_SS3[None])[0]
            small_ST3 = shrink_for_crf(image_HW3, max_side=recipe.max_side)
            s, t = small_ST3.shape[:2]
            size = {"height": s, "width": t}
            p_ST = clock("probability", probability, theta_hw, **size, tie=recipe.sign_tie)
            energy_2N = recipe.energy(p_ST, recipe.params)
            crf_ST = clock("CRF", recipe.crf, small_ST3, energy_2N, recipe.params)
            thumbnail_TT3 = thumbnail(small_ST3)
            refined = clock(
                "median, quality",
                median_and_quality,
                crf_ST,
                theta_hw,
                p_ST,
                thumbnail_TT3,
                height=height,
                width=width,
                recipe=recipe,
            )
            clock("PNG", encode_png, refined.mask_HW)
            masks[name] = refined.mask_HW > 0
        for name, mask in masks.items():
            both, either = mask & masks["float32"], mask | masks["float32"]
            unions[name].append(float(both.sum()) / float(either.sum()) if either.any() else 1.0)
            scores[name].append(f_measure(mask, truth_HW))
    ms = clock.medians_ms()
    others = sum(value for part, value in ms.items() if not part.startswith("network"))
    total = others + ms["network, float32"]
    result: dict[str, Any] = {
        **describe_machine(),
        "command": f"python benchmarks/label_precision.py --count {args.count}"
        f" --network {args.network}{' --compile' if args.compile else ''}",
        "photographs": len(files),
        "median_cpu_ms": ms,
        "total_ms": round(total, 2),
        "times_as_fast_if_the_network_took_nothing": round(total / others, 2),
        "ways": {
            name: {
                "network_times_as_fast": round(ms["network, float32"] / ms[f"network, {name}"], 2),
                "label_times_as_fast": round(total / (others + ms[f"network, {name}"]), 2),
                "iou_with_float32": round(statistics.fmean(unions[name]), 4),
                "iou_median": round(statistics.median(unions[name]), 4),
                "photographs_with_iou_below_0.9": sum(value < 0.9 for value in unions[name]),
                "f": round(statistics.fmean(scores[name]), 4),
            }
            for name in ways
        },
    }
    before = {}
    if args.out.exists():
        before = json.loads(args.out.read_text())
    write_json(args.out, {**before, args.network: result})
    print(result)


if __name__ == "__main__":
    main()
