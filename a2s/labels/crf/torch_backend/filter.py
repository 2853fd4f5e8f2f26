"""High-dimensional Gaussian filter on lattices, in torch operations; reference for `filter_triton`.

Shapes: N pixels of all images; C corners, E = C * N, M vertices as in `lattice`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.torch_backend.lattice import Lattice, Packing, embed, rescaled


@dataclass(frozen=True)
class Pixels:
    """Concatenated pixels of several images, and the image number of each pixel."""

    rgb_N3: Tensor
    image_N: Tensor
    starts_B: Tensor
    widths_B: Tensor
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Kernels:
    """Implementations, for one kind of device, of the passes over all pixels or vertices."""

    corners: Callable[[Pixels, CrfParams, Packing], tuple[Tensor, Tensor]]
    splat: Callable[[Lattice, Tensor, torch.dtype], Tensor]
    blur: Callable[[Lattice, Tensor], Tensor]
    update: Callable[[Tensor, Sequence[tuple[float, Lattice, Tensor]]], Tensor]


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Copy integers to the device without synchronising."""
    tensor = torch.tensor(values, dtype=torch.int64)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def divide(value_N: Tensor, sigma: float) -> Tensor:
    """Divide with a single rounding; for a Python number torch multiplies by the reciprocal."""
    return value_N.float() / torch.full((1,), sigma, device=value_N.device)


def layout(sizes: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Image number of every pixel; first pixel and width of every image; for (height, width).

    Shape: N (int32), B, B (int64).
    """
    areas = [height * width for height, width in sizes]
    starts = [sum(areas[:index]) for index in range(len(areas))]
    numbers_B = torch.arange(len(areas), dtype=torch.int32, device=device)
    return (
        torch.repeat_interleave(numbers_B, on_device(areas, device), output_size=sum(areas)),
        on_device(starts, device),
        on_device([width for _, width in sizes], device),
    )


def coordinates(image_N: Tensor, starts_B: Tensor, widths_B: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates x and y of every pixel of a `layout`. Shape: N (int64) each."""
    inside_N = torch.arange(len(image_N), device=image_N.device) - starts_B[image_N]
    width_N = widths_B[image_N]
    y_N = inside_N // width_N
    return inside_N - y_N * width_N, y_N


def corners(pixels: Pixels, params: CrfParams, packed: Packing) -> tuple[Tensor, Tensor]:
    """Keys and weights of the bilateral kernel's corners."""
    places = coordinates(pixels.image_N, pixels.starts_B, pixels.widths_B)
    features = [divide(axis, params.bilateral_sxy) for axis in places]
    features += [divide(channel, params.bilateral_srgb) for channel in pixels.rgb_N3.unbind(1)]
    return embed(features, pixels.image_N, packed)


def splat(lattice: Lattice, value_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Add weighted pixel values to vertices. Shape: N -> 1 + M, the null vertex first."""
    part_E = lattice.sorted_weights_E.float() * value_N.index_select(0, lattice.pixels_E)
    part = _sums(_sums(part_E, lattice.piece_starts), lattice.vertex_pieces)
    return torch.cat([torch.zeros_like(part[:1]), part]).to(dtype)


def _sums(values: Tensor, bounds: Tensor) -> Tensor:
    """Sum each run of values, in order."""
    return torch.segment_reduce(values, "sum", offsets=bounds, initial=0, unsafe=True)


def blur(lattice: Lattice, values_M: Tensor) -> Tensor:
    """Add half of both neighbours, direction by direction (directions do not commute)."""
    for ahead_M, behind_M in lattice.neighbours_C2M:
        full_M = values_M.float()
        near_M = full_M.index_select(0, ahead_M) + full_M.index_select(0, behind_M)
        full_M[1:] += 0.5 * near_M
        values_M = full_M.to(values_M.dtype)
    return values_M


def sliced(lattice: Lattice, values_M: Tensor) -> Tensor:
    """Interpolate vertex values at the pixels. Shape: 1 + M -> N."""
    total_N = torch.zeros_like(lattice.weights_CN[0], dtype=torch.float32)
    for weight_N, vertex_N in zip(lattice.weights_CN, lattice.vertices_CN, strict=True):
        total_N += weight_N.float() * values_M.index_select(0, vertex_N).float()
    return total_N


def normalised(lattice: Lattice, kernels: Kernels, dtype: torch.dtype) -> Lattice:
    """Fold the symmetric normalisation into the weights: 1 / sqrt(filter(1))."""
    ones_N = torch.ones_like(lattice.weights_CN[0])
    values_M = kernels.blur(lattice, kernels.splat(lattice, ones_N, torch.float32))
    factor_N = 1 / torch.sqrt(sliced(lattice, values_M) + 1e-20)
    return rescaled(lattice, factor_N, dtype)


def update(logit_N: Tensor, messages: Sequence[tuple[float, Lattice, Tensor]]) -> Tensor:
    """Mean-field update of s. Shape: N -> N. Range: -1..1."""
    total_N = logit_N.clone()
    for compat, lattice, values_M in messages:
        total_N += compat * sliced(lattice, values_M)
    return torch.tanh(total_N * 0.5)


TORCH_KERNELS = Kernels(corners, splat, blur, update)
