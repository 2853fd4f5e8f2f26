"""Which networks of timm are encoders: one small network of every module of timm, and some others.

    python benchmarks/timm_networks.py [NAME …]

Every network is built untrained, without any download. What is tried: images of 64, 160 and 320 px
(`check_side`), the sizes of the taps of an image of 65 x 97 px, a gradient for every parameter, the
same taps twice in training mode, and the same taps after preparing for inference (BatchNorm folded,
oneDNN). Writes `benchmarks/results/timm_networks.json`; with names it only prints.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import timm
import torch
from machine import describe_machine
from torch import nn

from a2s.errors import A2SError
from a2s.models.encoders import build_encoder, calibrate_batchnorm, set_batchnorm
from a2s.models.prepare import folded, use_onednn
from a2s.models.timm_encoder import TimmEncoder

RESULTS = Path(__file__).resolve().parent / "results" / "timm_networks.json"
# Words in the names of small networks, the smallest first.
SMALL = ("test", "pico", "atto", "femto", "nano", "tiny", "_xxs", "_xs", "_s", "small", "050", "_0")
SMALL += ("b0", "18", "mini", "lite")
ALSO = (
    *("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"),
    *("vit_small_patch16_224.dino", "vit_base_patch16_clip_224.openai", "deit3_small_patch16_224"),
    *("convnext_tiny", "swin_tiny_patch4_window7_224", "tf_efficientnet_lite0", "regnety_008"),
    *("resnet50d", "resnetv2_50x1_bit", "repvgg_a0", "mobileone_s0", "mobilenetv4_hybrid_medium"),
)
# Hundreds of millions of parameters.
HUGE = {"deepseek_vit", "gemma4_vit", "qwen3_vit", "vision_transformer_sam", "mobilenetv5"}


def size_of(name: str) -> tuple[int, int]:
    """What sorts the names of a module by the size of their networks, roughly."""
    small = next((i for i, word in enumerate(SMALL) if word in name), len(SMALL))
    return small, len(name)


def try_network(name: str) -> dict[str, Any]:
    """What works and what does not."""
    begun = time.monotonic()
    try:
        encoder = build_encoder(f"timm:{name}")
    except A2SError as error:
        return {"refused": str(error)}
    assert isinstance(encoder, TimmEncoder)
    calibrate_batchnorm(encoder)
    found: dict[str, Any] = {"maps": list(encoder.sources.maps), "fixed_size": encoder.is_fixed}
    for side in (64, 160, 320):
        try:
            encoder.check_side(side)
        except A2SError as error:
            found.setdefault("refused_sides", {})[side] = str(error)
    with torch.no_grad():
        taps = encoder.eval()(torch.randn(1, 3, 65, 97))
    found["sizes_fit"] = [tap.shape[1:] for tap in taps] == [
        (channels, -(-65 // stride), -(-97 // stride))
        for channels, stride in zip(encoder.channels, encoder.strides, strict=True)
    ]
    return {**found, **_trained(encoder), **_prepared(encoder), "sec": _since(begun)}


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 1)


def _trained(encoder: TimmEncoder) -> dict[str, Any]:
    set_batchnorm(encoder.train(), "frozen")
    image = torch.randn(1, 3, 96, 96)
    once, again = encoder(image), encoder(image)
    torch.stack([tap.float().square().mean() for tap in once]).sum().backward()
    without = [name for name, value in encoder.named_parameters() if value.grad is None]
    same = all(torch.equal(tap, other) for tap, other in zip(once, again, strict=True))
    return {"repeats": same, "parameters_without_gradient": without}


def _prepared(encoder: TimmEncoder) -> dict[str, Any]:
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = encoder.eval()(image)
        norms = _norms(encoder)
        ready = folded(encoder)
        use_onednn(ready)
        pairs = zip(ready(image), expected, strict=True)
        error = max(float((tap - other).abs().max() / other.abs().max()) for tap, other in pairs)
    return {"batchnorms": norms, "left_after_folding": _norms(ready), "largest_error": error}


def _norms(encoder: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


def main() -> None:
    """Try all of them, one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    torch.manual_seed(0)
    modules = [module for module in timm.list_modules() if module not in HUGE]
    smallest = [min(timm.list_models(module=module), key=size_of) for module in modules]
    networks = {}
    for name in options.names or dict.fromkeys([*smallest, *ALSO]):
        networks[name] = try_network(name)
        print(name, json.dumps(networks[name]), flush=True)
    if options.names:
        return
    result = {
        "machine": describe_machine(),
        "timm": timm.__version__,
        "modules_left_out": sorted(HUGE),
        "num_networks": len(networks),
        "num_refused": sum("refused" in network for network in networks.values()),
        "networks": networks,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
