"""Time by phase of a batch of dense CRFs."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.torch_backend import inference, lattice
from a2s.labels.crf.torch_backend.filter import Kernels

PARAMS = CrfParams()
Pair = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""image_HW3 and energy_2N."""


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def on_device(pairs: list[Pair], device: torch.device) -> tuple[list[Any], list[Any]]:
    images = [torch.from_numpy(image).to(device) for image, _ in pairs]
    logits = [
        torch.from_numpy(energy[0] - energy[1]).to(device).view(image.shape[:2])
        for image, energy in pairs
    ]
    return images, logits


@contextmanager
def clocks(device: torch.device) -> Iterator[tuple[dict[str, float], Callable[..., Any]]]:
    """Return seconds by name, and a wrapper that times a function unless it is nested."""
    seconds: dict[str, float] = defaultdict(float)
    running: list[str] = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if running:
                return function(*arguments)
            running.append(name)
            finish(device)
            start = time.perf_counter()
            result = function(*arguments)
            finish(device)
            seconds[name] += time.perf_counter() - start
            running.pop()
            return result

        return call

    yield seconds, timed


def phases(
    pairs: list[Pair], kernels: Kernels, *, size: int, device: torch.device
) -> dict[str, Any]:
    """Share of every phase in a batch of `size`, with a synchronisation after each phase."""
    images, logits = on_device([pairs[i % len(pairs)] for i in range(size)], device)
    vertices: dict[str, float] = {}
    with ExitStack() as stack:
        seconds, timed = stack.enter_context(clocks(device))
        named = {
            "sort and number": (lattice, "group"),
            "pieces": (lattice, "pieces"),
            "neighbours": (lattice, "neighbours"),
            "normalisation": (inference, "normalised"),
            "positions, joined": (inference, "position_lattices"),
        }
        inference.marginals(images[:1], logits[:1], PARAMS, kernels=kernels)
        for name, (module, function) in named.items():
            inner = getattr(module, function)
            stack.enter_context(patch.object(module, function, timed(name, inner)))
        update = kernels.update

        def noted(logit_N: Any, messages: Any) -> Any:
            for name, (_, lattice, _) in zip(("gaussian", "bilateral"), messages, strict=True):
                vertices[name] = lattice.num_vertices / logit_N.numel()
            return update(logit_N, messages)

        watched = replace(
            kernels,
            corners=timed("embed", kernels.corners),
            splat=timed("splat", kernels.splat),
            blur=timed("blur", kernels.blur),
            update=timed("slice and update", noted),
        )
        start = time.perf_counter()
        inference.marginals(images, logits, PARAMS, kernels=watched, max_bytes=2**36)
        finish(device)
        total = time.perf_counter() - start
    shares = {name: round(sec / total, 3) for name, sec in seconds.items()}
    shares["rest"] = round(1 - sum(seconds.values()) / total, 3)
    return {
        "batch": size,
        "milliseconds_per_image": round(1000 * total / size, 3),
        "shares": shares,
        "vertices_per_pixel": {name: round(ratio, 4) for name, ratio in vertices.items()},
    }
