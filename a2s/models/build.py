"""Rebuild a network from the `spec()` that was saved with its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from a2s.errors import CheckpointError
from a2s.models.activation_net import ActivationNet
from a2s.models.boundary import BOUNDARIES
from a2s.models.detector import DETECTORS, Detector
from a2s.models.encoder_base import Encoder
from a2s.models.encoders import ENCODERS, build_encoder
from a2s.models.heads import FUSION_STRIDES
from a2s.models.timm_name import is_timm, require_timm

MAX_NUMBER = 4096
"""Of heads, channels and pixels of a frame; a file must not make a network of any size."""


def build_from_spec(spec: Mapping[str, str]) -> ActivationNet | Detector:
    """Build the network that `spec` describes, without its weights; other entries are ignored.

    Raises:
        CheckpointError: `spec` lacks an entry or has an impossible one.
        ConfigError: its encoder is one of timm, which is not installed or has it no longer.
    """

    def entry(key: str, *allowed: str) -> str:
        value = spec.get(key)
        if value is None or (allowed and value not in allowed):
            wanted = f"one of {', '.join(allowed)}" if allowed else "present"
            raise CheckpointError(f"model: metadata entry {key} is {value!r}, must be {wanted}")
        return value

    def number(key: str, *, at_least: int) -> int:
        text = entry(key)
        # Python refuses to read thousands of digits.
        if not (text.isdecimal() and at_least <= int(text[:9]) <= MAX_NUMBER):
            raise CheckpointError(
                f"model: metadata entry {key} is {text!r}, must be a number from {at_least} to "
                f"{MAX_NUMBER}"
            )
        return int(text)

    kind = entry("kind", "activation", "detector")
    name = spec.get("encoder.name", "")
    if is_timm(name):
        encoder = _timm_encoder(name, mean=entry("encoder.mean"), std=entry("encoder.std"))
    else:
        name = entry("encoder.name", *ENCODERS)
        encoder = build_encoder(name, variant=entry("encoder.variant", *ENCODERS[name].variants))
    if (width := number("width", at_least=2)) % 2:
        raise CheckpointError(f"model: metadata entry width is {width}, must be an even number")
    if kind == "detector":
        chosen = entry("detector", *DETECTORS)
        return Detector(encoder, detector=next(d for d in DETECTORS if d == chosen), width=width)
    stride = int(entry("fusion_stride", *map(str, FUSION_STRIDES)))
    heads, frame = number("heads", at_least=1), number("frame", at_least=0)
    # In files of version 0.2 and before, all heads saw the same frame.
    given = "boundary_frame" if "boundary_frame" in spec else "frame"
    boundary_frame = number(given, at_least=0)
    label_heads = number("label_heads", at_least=0)
    kept = [int(text) for text in spec.get("kept_heads", "").split(",") if text.isdecimal()]
    cell, frames = encoder.strides[-1], (frame, boundary_frame)
    if any(head >= heads for head in (*kept, label_heads - 1)) or any(f % cell for f in frames):
        raise CheckpointError(
            f"model: kept_heads {spec.get('kept_heads')} and {label_heads} label_heads of {heads} "
            f"heads, or frames of {frame} and {boundary_frame} pixels, are impossible"
        )
    scaled = entry("e5_scale", "true", "false") == "true"
    e5_scale_C = torch.ones(encoder.channels[4]) if scaled else None
    network = ActivationNet(
        encoder,
        fusion_stride=stride,
        width=width,
        heads=heads,
        label_heads=label_heads,
        frame=frame,
        boundary_frame=boundary_frame,
        e5_scale_C=e5_scale_C,
        boundary=entry("boundary", *BOUNDARIES),
        sign_tie=int(entry("sign_tie", "1", "0")),
    )
    network.kept = kept or network.kept
    return network


def _timm_encoder(name: str, *, mean: str, std: str) -> Encoder:
    require_timm(name)
    from a2s.models.timm_encoder import rebuild

    try:
        return rebuild(name, mean=mean, std=std)
    except ValueError:
        raise CheckpointError(
            f"model: metadata entries encoder.mean and encoder.std are {mean!r} and {std!r}, must "
            "be three numbers each, those of encoder.std above 0"
        ) from None
