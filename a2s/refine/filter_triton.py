"""The dense CRF's passes as Triton kernels, for CUDA. The only importer of triton.

Shapes as in `lattice_torch`. No kernel adds atomically: the same input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from a2s.refine.energy import CrfParams
from a2s.refine.filter_torch import Kernels, Pixels, on_device
from a2s.refine.lattice_torch import Lattice, Packing, scales

BLOCK = 256
EMBED_BLOCK = 64


@triton.jit
def _nearest(x: Any) -> Any:
    """Nearest integer, ties to even, for |x| < 2**22: beyond 2**23 a float32 has no fraction."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _embed(
    rgb, image, starts, widths, digits, keys, weights, num_pixels,
    sxy, srgb, scale0, scale1, scale2, scale3, scale4, inverse,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Corners of five features (x, y, r, g, b); the order of operations is that of `embed`."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = n < num_pixels
    b = tl.load(image + n, mask=valid, other=0)
    inside = n - tl.load(starts + b).to(tl.int32)
    width = tl.load(widths + b).to(tl.int32)
    y = inside // width
    x = inside - y * width
    red = tl.load(rgb + n.to(tl.int64) * 3, mask=valid, other=0).to(tl.float32)
    green = tl.load(rgb + n.to(tl.int64) * 3 + 1, mask=valid, other=0).to(tl.float32)
    blue = tl.load(rgb + n.to(tl.int64) * 3 + 2, mask=valid, other=0).to(tl.float32)

    f5 = tl.div_rn(blue, srgb + tl.zeros_like(blue)) * scale4
    f4 = tl.div_rn(green, srgb + tl.zeros_like(blue)) * scale3
    f3 = tl.div_rn(red, srgb + tl.zeros_like(blue)) * scale2
    f2 = tl.div_rn(y.to(tl.float32), sxy + tl.zeros_like(blue)) * scale1
    f1 = tl.div_rn(x.to(tl.float32), sxy + tl.zeros_like(blue)) * scale0
    e5 = -5.0 * f5
    e4 = f5 - 4.0 * f4
    total = f5 + f4
    e3 = total - 3.0 * f3
    total += f3
    e2 = total - 2.0 * f2
    total += f2
    e1 = total - f1
    total += f1

    axis = tl.arange(0, 8)[None, :]
    used = axis < 6
    elevated = tl.where(axis == 0, total[:, None], 0.0)
    elevated = tl.where(axis == 1, e1[:, None], elevated)
    elevated = tl.where(axis == 2, e2[:, None], elevated)
    elevated = tl.where(axis == 3, e3[:, None], elevated)
    elevated = tl.where(axis == 4, e4[:, None], elevated)
    elevated = tl.where(axis == 5, e5[:, None], elevated)
    q = _nearest(elevated * inverse)
    excess = tl.sum(q, 1).to(tl.int32)

    # rank[i] counts the j whose rest is larger; of equal ones the later counts.
    rest = tl.where(used, elevated - q * 6.0, 0.0)
    i = tl.arange(0, 8)[None, :, None]
    j = tl.arange(0, 8)[None, None, :]
    larger = ((j > i) & (rest[:, :, None] < rest[:, None, :])) | (
        (j < i) & (rest[:, None, :] >= rest[:, :, None])
    )
    rank = tl.sum(tl.where(larger & (j < 6), 1, 0), 2) + excess[:, None]
    turn = tl.where(rank < 0, 1, 0) - tl.where(rank > 5, 1, 0)
    rank = tl.where(used, rank + 6 * turn, 8)
    q += turn.to(tl.float32)
    rest = (elevated - q * 6.0) * inverse

    stride = tl.load(digits + 2 + axis)
    key = b.to(tl.int64) * tl.load(digits) + tl.load(digits + 1)
    key += tl.sum(tl.where(used, q, 0.0).to(tl.int64) * stride, 1)
    before = tl.sum(tl.where(rank == 0, rest, 0.0), 1)
    row = n.to(tl.int64)
    for r in tl.static_range(6):
        own = tl.sum(tl.where(rank == 5 - r, rest, 0.0), 1)
        weight = own + (1.0 - before) if r == 0 else own - before
        tl.store(weights + row, weight, mask=valid)
        tl.store(keys + row, key, mask=valid)
        key += 1 - tl.sum(tl.where(rank == 5 - r, stride, 0), 1)
        before = own
        row += num_pixels


def corners(pixels: Pixels, params: CrfParams, packed: Packing) -> tuple[Tensor, Tensor]:
    """Keys and weights of the bilateral kernel's corners, from the image in one pass."""
    device, num_pixels = pixels.rgb_N3.device, pixels.rgb_N3.shape[0]
    digits = [packed.image_stride, packed.offset, *packed.strides, 0, 0, 0]
    keys_CN = torch.empty((6, num_pixels), dtype=torch.int64, device=device)
    weights_CN = torch.empty((6, num_pixels), dtype=torch.float32, device=device)
    _embed[(triton.cdiv(num_pixels, EMBED_BLOCK),)](
        pixels.rgb_N3,
        pixels.image_N,
        pixels.starts_B,
        pixels.widths_B,
        on_device(digits, device),
        keys_CN,
        weights_CN,
        num_pixels,
        float(params.bilateral_sxy),
        float(params.bilateral_srgb),
        *scales(5),
        1 / 6,
        BLOCK=EMBED_BLOCK,
        enable_fp_fusion=False,
    )
    return keys_CN, weights_CN


@triton.jit
def _sum_pieces(values, weights, pixels, starts, sums, num_pieces, BLOCK: tl.constexpr):
    piece = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = piece < num_pieces
    start = tl.load(starts + piece, mask=valid, other=0)
    length = tl.load(starts + piece + 1, mask=valid, other=0) - start
    total = tl.zeros([BLOCK], tl.float32)
    for step in range(tl.max(length, 0)):
        inside = step < length
        pixel = tl.load(pixels + start + step, mask=inside, other=0)
        weight = tl.load(weights + start + step, mask=inside, other=0).to(tl.float32)
        total += weight * tl.load(values + pixel, mask=inside, other=0)
    tl.store(sums + piece, total, mask=valid)


@triton.jit
def _sum_vertices(sums, bounds, values, num_vertices, BLOCK: tl.constexpr):
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = (vertex > 0) & (vertex <= num_vertices)
    first = tl.load(bounds + vertex - 1, mask=valid, other=0)
    length = tl.load(bounds + vertex, mask=valid, other=0) - first
    total = tl.zeros([BLOCK], tl.float32)
    for step in range(tl.max(length, 0)):
        total += tl.load(sums + first + step, mask=step < length, other=0)
    tl.store(values + vertex, total, mask=vertex <= num_vertices)


def splat(lattice: Lattice, value_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Spread pixels onto vertices. Shape: N -> 1 + M, the void first."""
    num_pieces, num_vertices = lattice.piece_starts.numel() - 1, lattice.num_vertices
    sums = torch.empty(num_pieces, dtype=torch.float32, device=value_N.device)
    values_M = torch.empty(num_vertices + 1, dtype=dtype, device=value_N.device)
    _sum_pieces[(triton.cdiv(num_pieces, BLOCK),)](
        value_N,
        lattice.sorted_weights_E,
        lattice.pixels_E,
        lattice.piece_starts,
        sums,
        num_pieces,
        BLOCK=BLOCK,
    )
    _sum_vertices[(triton.cdiv(num_vertices + 1, BLOCK),)](
        sums, lattice.vertex_pieces, values_M, num_vertices, BLOCK=BLOCK
    )
    return values_M


@triton.jit
def _blur(values, ahead, behind, out, num_vertices, BLOCK: tl.constexpr):
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = (vertex > 0) & (vertex <= num_vertices)
    one = tl.load(ahead + vertex - 1, mask=valid, other=0)
    other = tl.load(behind + vertex - 1, mask=valid, other=0)
    near = tl.load(values + one, mask=valid, other=0).to(tl.float32)
    near += tl.load(values + other, mask=valid, other=0).to(tl.float32)
    own = tl.load(values + vertex, mask=valid, other=0).to(tl.float32)
    tl.store(out + vertex, own + 0.5 * near, mask=vertex <= num_vertices)


def blur(lattice: Lattice, values_M: Tensor) -> Tensor:
    """Add half of both neighbours, one direction after the other; `values_M` is overwritten."""
    out_M = torch.empty_like(values_M)
    for ahead_M, behind_M in lattice.neighbours_C2M:
        _blur[(triton.cdiv(values_M.numel(), BLOCK),)](
            values_M, ahead_M, behind_M, out_M, lattice.num_vertices, BLOCK=BLOCK
        )
        values_M, out_M = out_M, values_M
    return values_M


@triton.jit
def _sliced(values, vertices, weights, n, valid, num_pixels, CORNERS: tl.constexpr):
    total = tl.zeros_like(n).to(tl.float32)
    row = n.to(tl.int64)
    for _ in tl.static_range(CORNERS):
        vertex = tl.load(vertices + row, mask=valid, other=0)
        weight = tl.load(weights + row, mask=valid, other=0).to(tl.float32)
        total += weight * tl.load(values + vertex, mask=valid, other=0).to(tl.float32)
        row += num_pixels
    return total


@triton.jit
def _update(
    logit, values0, vertices0, weights0, compat0, values1, vertices1, weights1, compat1,
    out, num_pixels, CORNERS0: tl.constexpr, CORNERS1: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = n < num_pixels
    total = tl.load(logit + n, mask=valid, other=0)
    total += compat0 * _sliced(values0, vertices0, weights0, n, valid, num_pixels, CORNERS0)
    total += compat1 * _sliced(values1, vertices1, weights1, n, valid, num_pixels, CORNERS1)
    tl.store(out + n, 2.0 * tl.sigmoid(total) - 1.0, mask=valid)  # tanh(total / 2)


def update(logit_N: Tensor, messages: Sequence[tuple[float, Lattice, Tensor]]) -> Tensor:
    """One mean-field step for s: both filters are read and added in one pass.

    Shape: N -> N. Range: -1..1.
    """
    (compat0, lattice0, values0), (compat1, lattice1, values1) = messages
    s_N = torch.empty_like(logit_N)
    _update[(triton.cdiv(s_N.numel(), BLOCK),)](
        logit_N,
        values0,
        lattice0.vertices_CN,
        lattice0.weights_CN,
        float(compat0),
        values1,
        lattice1.vertices_CN,
        lattice1.weights_CN,
        float(compat1),
        s_N,
        s_N.numel(),
        CORNERS0=lattice0.vertices_CN.shape[0],
        CORNERS1=lattice1.vertices_CN.shape[0],
        BLOCK=BLOCK,
    )
    return s_N


KERNELS = Kernels(corners, splat, blur, update)
