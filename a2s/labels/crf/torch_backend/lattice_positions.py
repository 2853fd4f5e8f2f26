"""Lattices of the position kernel, cached by image size.

A lattice of positions depends only on the image size. Building one takes about 200 short GPU
operations, which are bound by launch overhead, and synchronises. So all new sizes of a batch are
built as one lattice, which is then cut into one per size. Shapes as in `lattice`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from a2s.labels.crf.torch_backend.filter import (
    TORCH_KERNELS,
    coordinates,
    divide,
    layout,
    normalised,
    on_device,
)
from a2s.labels.crf.torch_backend.lattice import Lattice, assemble, embed, packing

KEEP_BYTES = 256 * 2**20
"""Limit of device memory for cached lattices."""

_Key = tuple[tuple[int, int], float, torch.device, torch.dtype]
_kept: OrderedDict[_Key, Lattice] = OrderedDict()
_lock = threading.Lock()


def position_lattices(
    sizes: Sequence[tuple[int, int]], sxy: float, device: torch.device, dtype: torch.dtype
) -> Lattice:
    """Normalised lattice of a batch of images of these (height, width).

    Synchronises if a size is new.
    """
    with _lock:
        found = {
            size: _kept[key] for size in set(sizes) if (key := (size, sxy, device, dtype)) in _kept
        }
        for size in found:
            _kept.move_to_end((size, sxy, device, dtype))
    new = [size for size in dict.fromkeys(sizes) if size not in found]
    if new:
        built = dict(zip(new, build(new, sxy, device, dtype), strict=True))
        found |= built
        _keep({(size, sxy, device, dtype): lattice for size, lattice in built.items()})
    return concatenated([tiled(found[size], len(list(run))) for size, run in groupby(sizes)])


def build(
    sizes: Sequence[tuple[int, int]], sxy: float, device: torch.device, dtype: torch.dtype
) -> list[Lattice]:
    """Build one lattice for each of these sizes."""
    image_N, starts_B, widths_B = layout(sizes, device)
    largest = [max(size[axis] for size in sizes) - 1 for axis in (1, 0)]
    packed = packing([length / sxy for length in largest])
    features = [divide(axis, sxy) for axis in coordinates(image_N, starts_B, widths_B)]
    lattice = normalised(assemble(*embed(features, image_N, packed), packed), TORCH_KERNELS, dtype)
    return cut(lattice, [height * width for height, width in sizes])


def cut(lattice: Lattice, areas: Sequence[int]) -> list[Lattice]:
    """Cut a lattice of images with `areas` pixels into one per image. Synchronises once."""
    corners = lattice.weights_CN.shape[0]
    ends = [sum(areas[: number + 1]) for number in range(len(areas))]
    if len(areas) == 1:
        return [lattice]
    # Corners are sorted by image first, so each image's pieces and vertices are contiguous.
    corner_B = on_device([corners * end for end in ends], lattice.pixels_E.device).int()
    piece_B = torch.searchsorted(lattice.piece_starts, corner_B, out_int32=True)
    vertex_B = torch.searchsorted(lattice.vertex_pieces, piece_B, out_int32=True)
    piece_ends, vertex_ends = torch.stack([piece_B, vertex_B]).tolist()
    lattices = []
    pixel = piece = vertex = 0
    for end, piece_end, vertex_end in zip(ends, piece_ends, vertex_ends, strict=True):
        corner_run = slice(corners * pixel, corners * end)
        near = lattice.neighbours_C2M[..., vertex:vertex_end]
        lattices.append(
            Lattice(
                lattice.vertices_CN[:, pixel:end] - vertex,
                lattice.weights_CN[:, pixel:end].clone(),
                lattice.pixels_E[corner_run] - pixel,
                lattice.sorted_weights_E[corner_run].clone(),
                lattice.piece_starts[piece : piece_end + 1] - corners * pixel,
                lattice.vertex_pieces[vertex : vertex_end + 1] - piece,
                torch.where(near > 0, near - vertex, 0),
            )
        )
        pixel, piece, vertex = end, piece_end, vertex_end
    return lattices


def _keep(lattices: dict[_Key, Lattice]) -> None:
    """Add to the cache; evict the least recently used lattices above `KEEP_BYTES`."""
    with _lock:
        _kept.update(lattices)
        total = sum(_num_bytes(lattice) for lattice in _kept.values())
        while total > KEEP_BYTES:
            total -= _num_bytes(_kept.popitem(last=False)[1])


def _num_bytes(lattice: Lattice) -> int:
    return sum(tensor.nbytes for tensor in vars(lattice).values())


def tiled(lattice: Lattice, times: int) -> Lattice:
    """Repeat the lattice of one image for `times` images of its size, without shared vertices."""
    if times == 1:
        return lattice
    number = torch.arange(times, dtype=torch.int32, device=lattice.pixels_E.device)[:, None]
    num_corners, num_pixels = lattice.pixels_E.numel(), lattice.weights_CN.shape[1]

    def shifted(index: Tensor, step: int) -> Tensor:
        return (index[..., None, :] + step * number).flatten(-2)

    def ends(index: Tensor, step: int) -> Tensor:
        return torch.cat([shifted(index[:-1], step), index[-1:] + step * (times - 1)])

    near = lattice.neighbours_C2M[..., None, :]
    moved = torch.where(near > 0, near + lattice.num_vertices * number, 0).flatten(-2)
    return Lattice(
        shifted(lattice.vertices_CN, lattice.num_vertices),
        lattice.weights_CN.repeat(1, times),
        shifted(lattice.pixels_E, num_pixels),
        lattice.sorted_weights_E.repeat(times),
        ends(lattice.piece_starts, num_corners),
        ends(lattice.vertex_pieces, lattice.piece_starts.numel() - 1),
        moved,
    )


def concatenated(lattices: Sequence[Lattice]) -> Lattice:
    """Concatenate the lattices of different images."""
    if len(lattices) == 1:
        return lattices[0]
    pixels = vertices = corners = cuts = 0
    parts: list[Lattice] = []
    for one in lattices:
        near = one.neighbours_C2M
        parts.append(
            replace(
                one,
                vertices_CN=one.vertices_CN + vertices,
                pixels_E=one.pixels_E + pixels,
                piece_starts=one.piece_starts[:-1] + corners,
                vertex_pieces=one.vertex_pieces[:-1] + cuts,
                neighbours_C2M=torch.where(near > 0, near + vertices, 0),
            )
        )
        pixels += one.weights_CN.shape[1]
        vertices += one.num_vertices
        corners += one.pixels_E.numel()
        cuts += one.piece_starts.numel() - 1
    like = lattices[0].piece_starts
    return Lattice(
        torch.cat([part.vertices_CN for part in parts], 1),
        torch.cat([part.weights_CN for part in parts], 1),
        torch.cat([part.pixels_E for part in parts]),
        torch.cat([part.sorted_weights_E for part in parts]),
        torch.cat([*(part.piece_starts for part in parts), like.new_full((1,), corners)]),
        torch.cat([*(part.vertex_pieces for part in parts), like.new_full((1,), cuts)]),
        torch.cat([part.neighbours_C2M for part in parts], 2),
    )
