"""Dense CRF with two labels in torch, for batches of images of any sizes.

With two labels the mean field has one degree of freedom per pixel, s = Q(foreground) -
Q(background): logit = unary logit + sum over kernels of compat * filter(s), s = tanh(logit / 2).
Sums have a fixed order, so results depend neither on the run nor on the batch. On CUDA the kernels
are written in Triton.
Shapes: rgb_HW3 uint8; logit_HW float32; N pixels of all images; C, E, M as in `lattice`.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from a2s.data.arrays import F32, U8, Bool
from a2s.errors import ConfigError
from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.torch_backend.filter import TORCH_KERNELS, Kernels, Pixels, layout, normalised
from a2s.labels.crf.torch_backend.lattice import Packing, assemble, packing
from a2s.labels.crf.torch_backend.lattice_positions import position_lattices

BYTES_PER_PIXEL = 900
"""Peak device memory, measured with noise images, whose corners hardly share vertices."""
MAX_PIXELS = (2**31 - 1) // 6
"""Corners are numbered with int32."""


def flat(images: Sequence[Tensor]) -> Pixels:
    """Concatenate the pixels of images of any sizes."""
    device = images[0].device
    sizes = tuple((image.shape[0], image.shape[1]) for image in images)
    rgb_N3 = torch.cat([image.reshape(-1, 3) for image in images])
    return Pixels(rgb_N3, *layout(sizes, device), sizes)


def kernels_for(device: torch.device) -> Kernels:
    """Triton kernels on CUDA, torch operations elsewhere."""
    if device.type == "cuda" and importlib.util.find_spec("triton"):
        from a2s.labels.crf.torch_backend import filter_triton

        return filter_triton.KERNELS
    return TORCH_KERNELS


def bilateral_packing(sizes: Sequence[tuple[int, int]], params: CrfParams) -> Packing:
    """Key packing that is valid for all images of these sizes."""
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    grey = 255 / params.bilateral_srgb
    return packing(
        [(width - 1) / params.bilateral_sxy, (height - 1) / params.bilateral_sxy, *[grey] * 3]
    )


def mean_field(
    pixels: Pixels,
    logit_N: Tensor,
    params: CrfParams,
    packed: Packing,
    *,
    kernels: Kernels,
    dtype: torch.dtype,
) -> Tensor:
    """Run mean-field inference; return s. Shape: N -> N. Range: -1..1."""
    s_N = torch.tanh(logit_N * 0.5)
    if params.iterations == 0:
        return s_N
    bilateral = assemble(*kernels.corners(pixels, params, packed), packed)
    bilateral = normalised(bilateral, kernels, dtype)
    gaussian = position_lattices(pixels.sizes, params.gaussian_sxy, logit_N.device, dtype)
    weighted = ((params.gaussian_compat, gaussian), (params.bilateral_compat, bilateral))
    for _ in range(params.iterations):
        messages = [
            (compat, lattice, kernels.blur(lattice, kernels.splat(lattice, s_N, dtype)))
            for compat, lattice in weighted
        ]
        s_N = kernels.update(logit_N, messages)
    return s_N


def groups(areas: Sequence[int], *, max_pixels: int, max_images: int) -> Iterator[slice]:
    """Cut a batch into runs of images within the limits; a larger image forms its own run."""
    start = total = 0
    for index, area in enumerate(areas):
        if index > start and (total + area > max_pixels or index - start >= max_images):
            yield slice(start, index)
            start, total = index, 0
        total += area
    if start < len(areas):
        yield slice(start, len(areas))


def marginals(
    images: Sequence[Tensor],
    logits: Sequence[Tensor],
    params: CrfParams,
    *,
    dtype: torch.dtype = torch.float32,
    kernels: Kernels | None = None,
    max_bytes: int = 8 * 2**30,
) -> list[Tensor]:
    """Q(foreground) - Q(background) of every pixel after mean-field inference, per image.

    `images` (uint8 H W 3) and `logits` (unary energy of the background minus that of the
    foreground, H W) are on one device; sizes may differ. Batches that need more than `max_bytes` of
    device memory (`BYTES_PER_PIXEL`) are processed in parts. Results do not depend on the batch.
    Synchronises with the device once per part, and twice more if it has new sizes. `dtype` is that
    of weights and values on the lattice.

    Shape: H W 3, H W -> H W each. Range: -1..1. Raises: ConfigError.
    """
    assert len(images) == len(logits), (len(images), len(logits))
    if not images:
        return []
    kernels = kernels or kernels_for(images[0].device)
    sizes = [(image.shape[0], image.shape[1]) for image in images]
    areas = [height * width for height, width in sizes]
    assert min(areas) > 0, sizes
    if max(areas) > MAX_PIXELS:
        raise ConfigError(f"dense CRF: an image of {max(areas)} pixels; reduce max_side")
    packed = bilateral_packing(sizes, params)
    max_pixels = min(max_bytes // BYTES_PER_PIXEL, MAX_PIXELS)
    results: list[Tensor] = []
    with torch.no_grad(), torch.cuda.device(images[0].get_device()):
        for part in groups(areas, max_pixels=max_pixels, max_images=packed.max_images):
            logit_N = torch.cat([logit.reshape(-1).float() for logit in logits[part]])
            pixels = flat(images[part])
            assert len(logit_N) == len(pixels.rgb_N3), (len(logit_N), pixels.sizes)
            try:
                s_N = mean_field(pixels, logit_N, params, packed, kernels=kernels, dtype=dtype)
            except (RuntimeError, subprocess.CalledProcessError) as error:
                # Triton raises these when it cannot compile a kernel; the first has no own class.
                has_failed = isinstance(error, subprocess.CalledProcessError)
                if not has_failed and "C compiler" not in str(error):
                    raise
                raise ConfigError(
                    "refine.backend torch: Triton needs a C compiler and Python's headers for the "
                    "kernels of a GPU; install gcc or clang (or name one in CC) and python3-dev, "
                    "or take --refine.backend numba"
                ) from None
            whole = zip(torch.split(s_N, areas[part]), sizes[part], strict=True)
            results += [s.view(size) for s, size in whole]
    return results


def crf_batch(
    images: Sequence[Tensor],
    logits: Sequence[Tensor],
    params: CrfParams,
    *,
    max_bytes: int = 8 * 2**30,
) -> list[Tensor]:
    """Most probable label of every pixel: `marginals` above 0. Bool, H W each, on the device."""
    return [s_HW > 0 for s_HW in marginals(images, logits, params, max_bytes=max_bytes)]


def crf(image_HW3: U8, energy_2N: F32, params: CrfParams) -> Bool:
    """Most probable label of every pixel; on the GPU if there is one.

    Shape: H W 3, 2 N -> H W. Reference: Eqn 6.
    """
    mask_HW: Bool = _difference(image_HW3, energy_2N, params) > 0
    return mask_HW


def foreground_probability(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F32:
    """Mean-field probability of label 1; on the GPU if there is one.

    Shape: H W 3, 2 N -> H W. Range: 0..1.
    """
    return as_probability(_difference(image_HW3, energy_2N, params))


def as_probability(difference: F32) -> F32:
    """Convert Q(foreground) - Q(background) to the probability of foreground.

    Range: -1..1 -> 0..1.
    """
    return np.float32(0.5) + np.float32(0.5) * difference


def _difference(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F32:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    image = torch.tensor(image_HW3, device=device)
    logit = torch.tensor(energy_2N[0] - energy_2N[1], device=device).view(image_HW3.shape[:2])
    (s_HW,) = marginals([image], [logit], params)
    difference_HW: F32 = s_HW.cpu().numpy()
    return difference_HW
