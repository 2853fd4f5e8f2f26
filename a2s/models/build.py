"""Rebuild a network from the `spec()` that was saved with its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from a2s.errors import CheckpointError
from a2s.models.activation_net import FUSION_STRIDES, ActivationNet
from a2s.models.boundary import BOUNDARIES
from a2s.models.detector import DETECTORS, Detector
from a2s.models.encoders import ENCODERS, build_encoder


def build_from_spec(spec: Mapping[str, str]) -> ActivationNet | Detector:
    """Build the network that `spec` describes, without its weights; other entries are ignored.

    Raises:
        CheckpointError: `spec` lacks an entry or has an impossible one.
    """

    def entry(key: str, *allowed: str) -> str:
        value = spec.get(key)
        if value is None or (allowed and value not in allowed):
            wanted = f"one of {', '.join(allowed)}" if allowed else "present"
            raise CheckpointError(f"model: metadata entry {key} is {value!r}, must be {wanted}")
        return value

    kind = entry("kind", "activation", "detector")
    name = entry("encoder.name", *ENCODERS)
    encoder = build_encoder(name, variant=entry("encoder.variant", *ENCODERS[name].variants))
    text = entry("width")
    if not (text.isdecimal() and int(text) > 0 and int(text) % 2 == 0):
        raise CheckpointError(f"model: metadata entry width is {text!r}, must be an even number")
    width = int(text)
    if kind == "detector":
        chosen = entry("detector", *DETECTORS)
        return Detector(encoder, detector=next(d for d in DETECTORS if d == chosen), width=width)
    stride = int(entry("fusion_stride", *map(str, FUSION_STRIDES)))
    scaled = entry("e5_scale", "true", "false") == "true"
    e5_scale_C = torch.ones(encoder.channels[4]) if scaled else None
    return ActivationNet(
        encoder,
        fusion_stride=stride,
        width=width,
        e5_scale_C=e5_scale_C,
        boundary=entry("boundary", *BOUNDARIES),
        sign_tie=int(entry("sign_tie", "1", "0")),
    )
