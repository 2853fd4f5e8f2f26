"""Permutohedral lattice (Adams, Baek and Davis 2010) of a batch of images, in torch.

Equal, corner by corner, to the reference implementation (Krähenbühl and Koltun 2011).
Deterministic: vertices are found by sorting, and sums have a fixed order.
Shapes: N concatenated pixels of all images; D features; C = D + 1 corners of a pixel's simplex;
E = C * N corners of all pixels; M vertices, numbered from 1. Vertex 0 is the null vertex, which
stands for missing vertices; its value is always 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from a2s.errors import ConfigError

KEY_LIMIT = 2**63 - 1
DIGIT_LIMIT = 2**15
"""For larger coordinates float32 is too coarse (and the 16-bit keys of the reference overflow)."""
PIECE = 64
"""Corners that one thread adds; a vertex in a flat region has thousands, too many for one."""


@dataclass(frozen=True)
class Packing:
    """Packing of a vertex into one int64 key; keys sort by image first.

    A vertex has D integer coordinates, all with the same remainder r modulo C. So its key has the
    digits (image, q_1 … q_D, r) with coordinate = C * q + r. Each digit leaves room for rounding
    and for neighbours, so keys are unique and a neighbour's key needs no carry.
    """

    strides: tuple[int, ...]
    offset: int
    image_stride: int

    @property
    def max_images(self) -> int:
        """Largest number of images whose keys fit into int64."""
        return KEY_LIMIT // self.image_stride


@dataclass(frozen=True)
class Lattice:
    """Vertices and weights of each pixel's corners, and neighbours of each vertex.

    `weights_CN` and `sorted_weights_E` include the normalisation, so slice(blur(splat(s))) is the
    normalised filter. `pixels_E` holds the pixels of all corners, sorted by vertex. Splatting adds
    them in pieces: piece p is `pixels_E[piece_starts[p]:piece_starts[p + 1]]`, and vertex v is the
    sum of the pieces from `vertex_pieces[v - 1]` up to but excluding `vertex_pieces[v]`.
    """

    vertices_CN: Tensor
    weights_CN: Tensor
    pixels_E: Tensor
    sorted_weights_E: Tensor
    piece_starts: Tensor
    vertex_pieces: Tensor
    neighbours_C2M: Tensor

    @property
    def num_vertices(self) -> int:
        """M, without the null vertex."""
        return self.neighbours_C2M.shape[2]


def scales(dims: int) -> list[float]:
    """Diagonal of the embedding, for a blur of standard deviation 1 (Adams et al., p. 6)."""
    deviation = float(np.float32(math.sqrt(2.0 / 3.0) * (dims + 1)))
    return [float(np.float32(deviation / math.sqrt((i + 1) * (i + 2)))) for i in range(dims)]


def packing(largest_D: Sequence[float]) -> Packing:
    """Choose a key packing for features between 0 and `largest_D`.

    Raises: ConfigError if the vertices of one image do not fit into int64 or coordinates reach
    `DIGIT_LIMIT`: kernel widths are then far below one pixel or one grey level.
    """
    dims = len(largest_D)
    reach = [x * scale for x, scale in zip(largest_D, scales(dims), strict=True)]
    # Coordinate j of the embedding is (sum of features from j on) - j * (feature j - 1).
    high = [sum(reach[j:]) / (dims + 1) for j in range(dims)]
    low = [0.0] + [-j * reach[j - 1] / (dims + 1) for j in range(1, dims)]
    fits = max(*high, -min(low)) < DIGIT_LIMIT
    if fits:
        # Room: rounding 1/2, moving into the plane 1, corners 1, neighbours 1.
        lowest = [math.floor(x) - 4 for x in low]
        radix = [math.ceil(x) + 4 - least + 1 for x, least in zip(high, lowest, strict=True)]
        image_stride = (dims + 1) * math.prod(radix)
    if not fits or image_stride > KEY_LIMIT:
        raise ConfigError(
            "dense CRF: kernel widths are so small for the image that its lattice has no keys; "
            "raise sxy or srgb"
        )
    strides = [image_stride]
    for size in radix:
        strides.append(strides[-1] // size)
    offset = -sum(least * stride for least, stride in zip(lowest, strides[1:], strict=True))
    return Packing(tuple(strides[1:]), offset, image_stride)


def embed(features_DN: Sequence[Tensor], image_N: Tensor, packed: Packing) -> tuple[Tensor, Tensor]:
    """Keys and barycentric weights of the corners of each pixel's simplex.

    Shape: D times N, N -> C N (int64), C N (float32). Range: weights sum to 1. Operations and their
    order equal the reference's, so every pixel lies in the same simplex.
    """
    dims = len(features_DN)
    corners = dims + 1
    total = torch.zeros_like(features_DN[0])
    elevated = [total] * corners
    for j, scale in reversed(list(enumerate(scales(dims), start=1))):
        scaled = features_DN[j - 1] * scale
        elevated[j] = total - j * scaled
        total = total + scaled
    elevated[0] = total

    inverse = float(np.float32(1) / np.float32(corners))
    rounded = [torch.round(e * inverse) for e in elevated]
    rests = [e - r * corners for e, r in zip(elevated, rounded, strict=True)]
    excess = sum(rounded[1:], start=rounded[0])
    rank = [excess.clone() for _ in range(corners)]
    for i in range(dims):
        for j in range(i + 1, corners):
            below = (rests[i] < rests[j]).float()
            rank[i] += below
            rank[j] += 1 - below

    key_N = image_N.long() * packed.image_stride + packed.offset
    place_CN = torch.empty((corners, len(key_N)), dtype=torch.int64, device=key_N.device)
    rest_CN = torch.empty_like(place_CN, dtype=torch.float32)
    for i in range(corners):
        turn = (rank[i] < 0).float() - (rank[i] > dims).float()
        place_CN[i] = (dims - (rank[i] + corners * turn)).long()
        rest_CN[i] = (elevated[i] - (rounded[i] + turn) * corners) * inverse
        if i < dims:
            key_N += (rounded[i] + turn).long() * packed.strides[i]

    sorted_CN = torch.empty_like(rest_CN).scatter_(0, place_CN, rest_CN)
    weights_CN = sorted_CN.clone()
    weights_CN[1:] -= sorted_CN[:-1]
    weights_CN[0] += 1 - sorted_CN[-1]
    # From one corner to the next every coordinate grows by 1, but one falls by D: its q by 1.
    step_CN = torch.zeros_like(place_CN)
    for i, stride in enumerate(packed.strides):
        step_CN.scatter_(0, place_CN[i : i + 1], stride)
    keys_CN = torch.empty_like(place_CN)
    keys_CN[0] = key_N
    for r in range(1, corners):
        keys_CN[r] = keys_CN[r - 1] + 1 - step_CN[r - 1]
    return keys_CN, weights_CN


def group(keys_CN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Number the distinct keys in sorted order. Synchronises once, to read their number.

    Shape: C N -> keys_M (int64), vertices_CN (int32), first_M (start of each vertex's corners in
    sorted order), order_E (the sort permutation).
    """
    sorted_E, order_E = torch.sort(keys_CN.flatten(), stable=True)
    is_first_E = torch.ones_like(sorted_E, dtype=torch.bool)
    torch.ne(sorted_E[1:], sorted_E[:-1], out=is_first_E[1:])
    numbers_E = torch.cumsum(is_first_E, 0, dtype=torch.int32)
    vertices_E = torch.empty_like(numbers_E).scatter_(0, order_E, numbers_E)
    first_M = is_first_E.nonzero()[:, 0].int()
    keys_M = sorted_E.index_select(0, first_M)
    return keys_M, vertices_E.view_as(keys_CN), first_M, order_E


def pieces(first_M: Tensor, num_corners: int) -> tuple[Tensor, Tensor]:
    """Cut the sorted corners of each vertex into pieces of at most `PIECE`.

    Shape: M -> piece_starts, vertex_pieces (M + 1), both int32. The number of pieces is an upper
    bound, which needs no synchronisation; surplus pieces are empty.
    """
    starts = torch.cat([first_M, first_M.new_full((1,), num_corners)])
    counts_M = (starts[1:] - starts[:-1] + PIECE - 1) // PIECE
    ends_M = torch.cumsum(counts_M, 0, dtype=torch.int32)
    vertex_pieces = torch.cat([ends_M.new_zeros(1), ends_M])
    bound = len(first_M) + num_corners // PIECE + 1
    number = torch.arange(bound, dtype=torch.int32, device=first_M.device)
    vertex = torch.searchsorted(ends_M, number, right=True, out_int32=True)
    begins = starts.index_select(0, vertex)
    begins += (number - vertex_pieces.index_select(0, vertex)) * PIECE
    return begins.clamp_(max=num_corners), vertex_pieces


def neighbours(keys_M: Tensor, packed: Packing) -> Tensor:
    """Find the vertices one step away in each direction, 0 if there is none.

    Shape: M -> C 2 M (int32).
    """
    corners = len(packed.strides) + 1
    num_vertices = len(keys_M)
    has_borrow_M = keys_M % corners == 0
    # One coordinate grows by D, the others fall by 1; below remainder 0 comes C - 1 of the next q.
    base_M = keys_M + torch.where(has_borrow_M, corners - 1 - sum(packed.strides), -1)
    own_M = torch.arange(1, num_vertices + 1, dtype=torch.int32, device=keys_M.device)
    found_C2M = own_M.new_empty((corners, 2, num_vertices))
    for found_2M, stride in zip(found_C2M, (*packed.strides, 0), strict=True):
        wanted_M = base_M + stride
        at_M = torch.searchsorted(keys_M, wanted_M, out_int32=True).clamp_(max=num_vertices - 1)
        is_there_M = keys_M.index_select(0, at_M) == wanted_M
        found_2M[0] = torch.where(is_there_M, at_M + 1, 0)
        # The other neighbour is the inverse relation. Slot 0 collects missing vertices.
        behind = torch.zeros(num_vertices + 1, dtype=torch.int32, device=keys_M.device)
        behind.scatter_(0, found_2M[0].long(), own_M)
        found_2M[1] = behind[1:]
    return found_C2M


def assemble(keys_CN: Tensor, weights_CN: Tensor, packed: Packing) -> Lattice:
    """Build the lattice of embedded pixels, not yet normalised."""
    keys_M, vertices_CN, first_M, order_E = group(keys_CN)
    piece_starts, vertex_pieces = pieces(first_M, order_E.numel())
    return Lattice(
        vertices_CN,
        weights_CN,
        (order_E % keys_CN.shape[1]).int(),
        weights_CN.flatten()[order_E],
        piece_starts,
        vertex_pieces,
        neighbours(keys_M, packed),
    )


def rescaled(lattice: Lattice, factor_N: Tensor, dtype: torch.dtype) -> Lattice:
    """Multiply the filter's input and output at each pixel by a factor."""
    per_corner_E = factor_N.index_select(0, lattice.pixels_E)
    return replace(
        lattice,
        weights_CN=(lattice.weights_CN * factor_N).to(dtype),
        sorted_weights_E=(lattice.sorted_weights_E * per_corner_E).to(dtype),
    )
