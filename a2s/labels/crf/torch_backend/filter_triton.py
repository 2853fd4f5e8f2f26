"""Triton kernels for the passes in `filter`, for CUDA. The only importer of triton.

Shapes as in `lattice`. No kernel uses atomic adds, so results are deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.torch_backend.filter import Kernels, Pixels, on_device
from a2s.labels.crf.torch_backend.lattice import Lattice, Packing, scales

BLOCK = 256


@triton.jit
def _nearest(x):
    """Nearest integer, ties to even, for |x| < 2**22: beyond 2**23 a float32 has no fraction."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def _compare(rest_a, rest_b, rank_a, rank_b):
    """Increment the rank of the smaller of two rests; of the later one if they are equal."""
    below = (rest_a < rest_b).to(tl.int32)
    return rank_a + below, rank_b + 1 - below


@triton.jit
def _settle(elevated, q, rank, inverse):
    """Correct a coordinate so that the point lies on the plane of lattice points."""
    turn = (rank < 0).to(tl.int32) - (rank > 5).to(tl.int32)
    q += turn.to(tl.float32)
    return (elevated - q * 6.0) * inverse, q.to(tl.int64), rank + 6 * turn


@triton.jit
def _pick(rank, r0, r1, r2, r3, r4, a0, a1, a2, a3, a4, a5):
    """Select the one of six values that has this rank."""
    return tl.where(
        r0 == rank, a0,
        tl.where(r1 == rank, a1,
        tl.where(r2 == rank, a2,
        tl.where(r3 == rank, a3,
        tl.where(r4 == rank, a4, a5)))),
    )  # fmt: skip


@triton.jit
def embed_kernel(
    rgb, image, starts, widths, digits, keys, weights, num_pixels,
    sxy, srgb, scale0, scale1, scale2, scale3, scale4, inverse,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Corners of five features (x, y, r, g, b); same order of operations as `lattice.embed`."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = n < num_pixels
    b = tl.load(image + n, mask=valid, other=0)
    inside = n - tl.load(starts + b).to(tl.int32)
    width = tl.load(widths + b).to(tl.int32)
    y = inside // width
    x = inside - y * width
    row = n.to(tl.int64)
    red = tl.load(rgb + row * 3, mask=valid, other=0).to(tl.float32)
    green = tl.load(rgb + row * 3 + 1, mask=valid, other=0).to(tl.float32)
    blue = tl.load(rgb + row * 3 + 2, mask=valid, other=0).to(tl.float32)

    sxy = tl.full([BLOCK], sxy, tl.float32)
    srgb = tl.full([BLOCK], srgb, tl.float32)
    f5 = tl.div_rn(blue, srgb) * scale4
    f4 = tl.div_rn(green, srgb) * scale3
    f3 = tl.div_rn(red, srgb) * scale2
    f2 = tl.div_rn(y.to(tl.float32), sxy) * scale1
    f1 = tl.div_rn(x.to(tl.float32), sxy) * scale0
    e5 = -5.0 * f5
    e4 = f5 - 4.0 * f4
    e0 = f5 + f4
    e3 = e0 - 3.0 * f3
    e0 += f3
    e2 = e0 - 2.0 * f2
    e0 += f2
    e1 = e0 - f1
    e0 += f1

    q0, q1, q2 = _nearest(e0 * inverse), _nearest(e1 * inverse), _nearest(e2 * inverse)
    q3, q4, q5 = _nearest(e3 * inverse), _nearest(e4 * inverse), _nearest(e5 * inverse)
    r0 = (q0 + q1 + q2 + q3 + q4 + q5).to(tl.int32)
    r1, r2, r3, r4, r5 = r0, r0, r0, r0, r0
    d0, d1, d2 = e0 - q0 * 6.0, e1 - q1 * 6.0, e2 - q2 * 6.0
    d3, d4, d5 = e3 - q3 * 6.0, e4 - q4 * 6.0, e5 - q5 * 6.0
    r0, r1 = _compare(d0, d1, r0, r1)
    r0, r2 = _compare(d0, d2, r0, r2)
    r0, r3 = _compare(d0, d3, r0, r3)
    r0, r4 = _compare(d0, d4, r0, r4)
    r0, r5 = _compare(d0, d5, r0, r5)
    r1, r2 = _compare(d1, d2, r1, r2)
    r1, r3 = _compare(d1, d3, r1, r3)
    r1, r4 = _compare(d1, d4, r1, r4)
    r1, r5 = _compare(d1, d5, r1, r5)
    r2, r3 = _compare(d2, d3, r2, r3)
    r2, r4 = _compare(d2, d4, r2, r4)
    r2, r5 = _compare(d2, d5, r2, r5)
    r3, r4 = _compare(d3, d4, r3, r4)
    r3, r5 = _compare(d3, d5, r3, r5)
    r4, r5 = _compare(d4, d5, r4, r5)
    d0, k0, r0 = _settle(e0, q0, r0, inverse)
    d1, k1, r1 = _settle(e1, q1, r1, inverse)
    d2, k2, r2 = _settle(e2, q2, r2, inverse)
    d3, k3, r3 = _settle(e3, q3, r3, inverse)
    d4, k4, r4 = _settle(e4, q4, r4, inverse)
    d5, _, _ = _settle(e5, q5, r5, inverse)

    s0, s1, s2 = tl.load(digits + 2), tl.load(digits + 3), tl.load(digits + 4)
    s3, s4, s5 = tl.load(digits + 5), tl.load(digits + 6), tl.load(digits + 7)
    key = b.to(tl.int64) * tl.load(digits) + tl.load(digits + 1)
    key += k0 * s0 + k1 * s1 + k2 * s2 + k3 * s3 + k4 * s4
    before = _pick(0, r0, r1, r2, r3, r4, d0, d1, d2, d3, d4, d5)
    for corner in tl.static_range(6):
        own = _pick(5 - corner, r0, r1, r2, r3, r4, d0, d1, d2, d3, d4, d5)
        weight = own + (1.0 - before) if corner == 0 else own - before
        tl.store(weights + row, weight, mask=valid)
        tl.store(keys + row, key, mask=valid)
        key += 1 - _pick(5 - corner, r0, r1, r2, r3, r4, s0, s1, s2, s3, s4, s5)
        before = own
        row += num_pixels


def corners(pixels: Pixels, params: CrfParams, packed: Packing) -> tuple[Tensor, Tensor]:
    """Keys and weights of the bilateral kernel's corners, in one pass over the image."""
    device, num_pixels = pixels.rgb_N3.device, pixels.rgb_N3.shape[0]
    digits = [packed.image_stride, packed.offset, *packed.strides, 0]
    keys_CN = torch.empty((6, num_pixels), dtype=torch.int64, device=device)
    weights_CN = torch.empty((6, num_pixels), dtype=torch.float32, device=device)
    embed_kernel[(triton.cdiv(num_pixels, BLOCK),)](
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
        BLOCK=BLOCK,
        enable_fp_fusion=False,
    )
    return keys_CN, weights_CN


@triton.jit(do_not_specialize=["num_pieces"])
def sum_pieces_kernel(values, weights, pixels, starts, sums, num_pieces, BLOCK: tl.constexpr):
    """Sums of weighted values over the pixels of each piece."""
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


@triton.jit(do_not_specialize=["num_vertices"])
def sum_vertices_kernel(sums, bounds, values, num_vertices, BLOCK: tl.constexpr):
    """Sums of pieces over those of each vertex; the void gets 0."""
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = (vertex > 0) & (vertex <= num_vertices)
    first = tl.load(bounds + vertex - 1, mask=valid, other=0)
    length = tl.load(bounds + vertex, mask=valid, other=0) - first
    total = tl.zeros([BLOCK], tl.float32)
    for step in range(tl.max(length, 0)):
        total += tl.load(sums + first + step, mask=step < length, other=0)
    tl.store(values + vertex, total, mask=vertex <= num_vertices)


def splat(lattice: Lattice, value_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Add weighted pixel values to vertices. Shape: N -> 1 + M, the null vertex first."""
    num_pieces, num_vertices = lattice.piece_starts.numel() - 1, lattice.num_vertices
    sums = torch.empty(num_pieces, dtype=torch.float32, device=value_N.device)
    values_M = torch.empty(num_vertices + 1, dtype=dtype, device=value_N.device)
    sum_pieces_kernel[(triton.cdiv(num_pieces, BLOCK),)](
        value_N,
        lattice.sorted_weights_E,
        lattice.pixels_E,
        lattice.piece_starts,
        sums,
        num_pieces,
        BLOCK=BLOCK,
    )
    sum_vertices_kernel[(triton.cdiv(num_vertices + 1, BLOCK),)](
        sums, lattice.vertex_pieces, values_M, num_vertices, BLOCK=BLOCK
    )
    return values_M


# Otherwise Triton recompiles for sizes divisible by 16 and for rows aligned to 16 bytes.
@triton.jit(do_not_specialize=["num_vertices"], do_not_specialize_on_alignment=["ahead", "behind"])
def blur_kernel(values, ahead, behind, out, num_vertices, BLOCK: tl.constexpr):
    """Add half of both neighbours in one direction."""
    vertex = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = (vertex > 0) & (vertex <= num_vertices)
    one = tl.load(ahead + vertex - 1, mask=valid, other=0)
    other = tl.load(behind + vertex - 1, mask=valid, other=0)
    near = tl.load(values + one, mask=valid, other=0).to(tl.float32)
    near += tl.load(values + other, mask=valid, other=0).to(tl.float32)
    own = tl.load(values + vertex, mask=valid, other=0).to(tl.float32)
    tl.store(out + vertex, own + 0.5 * near, mask=vertex <= num_vertices)


def blur(lattice: Lattice, values_M: Tensor) -> Tensor:
    """Add half of both neighbours, direction by direction; overwrites `values_M`."""
    out_M = torch.empty_like(values_M)
    for ahead_M, behind_M in lattice.neighbours_C2M:
        blur_kernel[(triton.cdiv(values_M.numel(), BLOCK),)](
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
def update_kernel(
    logit, values0, vertices0, weights0, compat0, values1, vertices1, weights1, compat1,
    out, num_pixels, CORNERS0: tl.constexpr, CORNERS1: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tanh of half the logit plus both filters, read from their vertices."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = n < num_pixels
    total = tl.load(logit + n, mask=valid, other=0)
    total += compat0 * _sliced(values0, vertices0, weights0, n, valid, num_pixels, CORNERS0)
    total += compat1 * _sliced(values1, vertices1, weights1, n, valid, num_pixels, CORNERS1)
    tl.store(out + n, 2.0 * tl.sigmoid(total) - 1.0, mask=valid)  # tanh(total / 2)


def update(logit_N: Tensor, messages: Sequence[tuple[float, Lattice, Tensor]]) -> Tensor:
    """Mean-field update of s: interpolate and add both filters in one pass.

    Shape: N -> N. Range: -1..1.
    """
    (compat0, lattice0, values0), (compat1, lattice1, values1) = messages
    s_N = torch.empty_like(logit_N)
    update_kernel[(triton.cdiv(s_N.numel(), BLOCK),)](
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
