"""Dense CRF compiled by numba: same model and masks as pydensecrf, several times as fast.

Compiled code releases the interpreter's lock. Shapes: image_HW3 uint8 RGB; energy_2N float32 with
N = H * W.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from a2s.data.arrays import F32, U8, Bool
from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.numba_backend import (
    lattice_packed,
    lattice_positions,
    lattice_wide,
    layout,
    mean_field,
)
from a2s.labels.crf.numba_backend.layout import TILE, Tiles

assert TILE == lattice_packed.TILE == lattice_positions.TILE == lattice_wide.TILE == mean_field.TILE

KEEP_BYTES = 512 * 2**20
KEEP_POSITIONS = 16
_KEEP_POSITION_PIXELS = 2**21
_TABLE_PER_PIXEL = 32

_local = threading.local()
kept_positions: OrderedDict[tuple[Tiles, float], Lattice] = OrderedDict()
_positions_lock = threading.Lock()


@dataclass(frozen=True)
class Lattice:
    """Vertices and normalised weights of all slots, neighbours of all vertices."""

    vertices: npt.NDArray[np.uint32]
    weights: F32
    neighbours: npt.NDArray[np.uint32]
    count: int


class Workspace:
    """Named scratch arrays of one thread, reused between calls; contents are undefined."""

    def __init__(self) -> None:
        self._arrays: dict[str, npt.NDArray[Any]] = {}

    def take(self, name: str, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return an uninitialised array of `size`; invalidates earlier arrays of that name."""
        array = self._arrays.get(name)
        if array is None or array.size < size:
            self._arrays.pop(name, None)
            array = np.empty(size, dtype)
            self._arrays[name] = array
        return array[:size]

    @property
    def num_bytes(self) -> int:
        """Memory of all arrays."""
        return sum(array.nbytes for array in self._arrays.values())

    def trim(self) -> None:
        """Free all arrays if they exceed `_KEEP_BYTES` (after a large image)."""
        if self.num_bytes > KEEP_BYTES:
            self._arrays.clear()


def workspace_of_thread() -> Workspace:
    """The calling thread's own."""
    if not hasattr(_local, "workspace"):
        _local.workspace = Workspace()
    workspace: Workspace = _local.workspace
    return workspace


def _build_wide(
    image_HW3: U8, sigmas: tuple[float, ...], tiles: Tiles, workspace: Workspace
) -> Lattice:
    """Build a lattice of any dimension and any range of coordinates."""
    features, real = layout.features_of(image_HW3, sigmas, tiles)
    scales = layout.scale_factors(len(sigmas))
    size = len(sigmas) + 1
    vertices = np.empty(size * real.size, np.uint32)
    weights = np.empty(size * real.size, np.float32)
    bits = (real.size + size * TILE).bit_length() + 1
    table, keys = np.zeros(1 << bits, np.uint32), np.empty(1 << bits, np.uint64)
    tile = count = 0
    while True:
        shift = np.uint64(64 - bits)
        tile, count = lattice_wide.embed(
            features, real, scales, tile, count, keys, table, shift, vertices, weights
        )
        if tile == tiles.count:
            break
        bits += 1
        table = np.zeros(1 << bits, np.uint32)
        keys = np.concatenate([keys, np.empty_like(keys)])
        lattice_wide.rehash(keys, count, table, np.uint64(64 - bits))
    neighbours = np.empty(2 * size * (count + 1), np.uint32)
    lattice_wide.find_neighbours(size, keys, count, table, shift, neighbours)
    return _normalised(Lattice(vertices, weights, neighbours, count), size, workspace)


def _build_packed(
    image_HW3: U8,
    sigmas: tuple[float, ...],
    tiles: Tiles,
    fields: layout.KeyFields,
    workspace: Workspace,
) -> Lattice:
    """Build a lattice of position and colour whose keys fit into one word."""
    num_slots = tiles.count * TILE
    units = np.array(fields.units, np.int64)
    base = int(units[:-1] @ np.array(fields.lows, np.int64))
    vertices = workspace.take("vertices", 6 * num_slots, np.uint32)
    weights = workspace.take("weights", 6 * num_slots, np.float32)
    bits = (num_slots + 6 * TILE).bit_length() + 1
    table = workspace.take("table", 1 << bits, np.int64)
    keys = workspace.take("keys", 1 << (bits - 1), np.int64)
    table[:] = 0
    tile = count = 0
    while True:
        shift = np.uint64(64 - bits)
        tile, count = lattice_packed.embed(
            image_HW3.reshape(-1), astuple(tiles), np.array(sigmas, np.float32),
            layout.scale_factors(5), units, fields.remainder, base, fields.number_bits,
            tile, count, keys, table, shift, vertices, weights,
        )  # fmt: skip
        if tile == tiles.count:
            break
        bits += 1
        known = keys[:count].copy()
        table = workspace.take("table", 1 << bits, np.int64)
        keys = workspace.take("keys", 1 << (bits - 1), np.int64)
        table[:] = 0
        keys[:count] = known
        lattice_packed.rehash(keys, count, table, np.uint64(64 - bits), fields.number_bits)
    neighbours = workspace.take("neighbours", 12 * (count + 1), np.uint32)
    lattice_packed.find_neighbours(
        units, fields.remainder, keys, count, table, shift, fields.number_bits, neighbours
    )
    return _normalised(Lattice(vertices, weights, neighbours, count), 6, workspace)


def _build_positions(
    sxy: float, tiles: Tiles, fields: layout.KeyFields, workspace: Workspace
) -> Lattice:
    """Build a lattice of positions that is dense enough for a table with an entry per key."""
    num_slots = tiles.count * TILE
    units = np.array(fields.units, np.int64)
    base = int(units[:-1] @ np.array(fields.lows, np.int64))
    vertices, weights = np.empty(3 * num_slots, np.uint32), np.empty(3 * num_slots, np.float32)
    table, keys = np.zeros(3 * fields.remainder, np.uint32), np.empty(3 * num_slots, np.int64)
    count = lattice_positions.embed(
        astuple(tiles), np.float32(sxy), layout.scale_factors(2), units, fields.remainder, base,
        keys, table, vertices, weights,
    )  # fmt: skip
    neighbours = np.empty(6 * (count + 1), np.uint32)
    lattice_positions.find_neighbours(units, fields.remainder, keys, count, table, neighbours)
    return _normalised(Lattice(vertices, weights, neighbours, count), 3, workspace)


def _normalised(lattice: Lattice, rows: int, workspace: Workspace) -> Lattice:
    values = workspace.take(f"values{rows}", lattice.count + 1, np.float32)
    other = workspace.take(f"other{rows}", lattice.count + 1, np.float32)
    mean_field.normalise(
        rows, lattice.vertices, lattice.weights, lattice.neighbours, lattice.count, values, other
    )
    return lattice


def position_lattice(image_HW3: U8, sxy: float, tiles: Tiles, workspace: Workspace) -> Lattice:
    """Lattice of positions; it depends on the image size only, so the last few are cached."""
    key = (tiles, sxy)
    with _positions_lock:
        lattice = kept_positions.get(key)
        if lattice is not None:
            kept_positions.move_to_end(key)
            return lattice
    ranges = layout.coordinate_ranges([(tiles.width - 1) / sxy, (tiles.height - 1) / sxy])
    layout.check_ranges(ranges, "gaussian_sxy")
    fields = layout.key_fields(ranges, tiles.count * TILE)
    if fields is None or 3 * fields.remainder > _TABLE_PER_PIXEL * tiles.count * TILE:
        lattice = _build_wide(image_HW3, (sxy, sxy), tiles, workspace)
    else:
        lattice = _build_positions(sxy, tiles, fields, workspace)
    with _positions_lock:
        kept_positions[key] = lattice
        while len(kept_positions) > 1 and (
            len(kept_positions) > KEEP_POSITIONS
            or sum(kept.count * TILE for kept, _ in kept_positions) > _KEEP_POSITION_PIXELS
        ):
            kept_positions.popitem(last=False)
    return lattice


def colour_lattice(image_HW3: U8, params: CrfParams, tiles: Tiles, workspace: Workspace) -> Lattice:
    """Lattice of positions and colours."""
    sxy, srgb = params.bilateral_sxy, params.bilateral_srgb
    sigmas = (sxy, sxy, srgb, srgb, srgb)
    largest = [(tiles.width - 1) / sxy, (tiles.height - 1) / sxy, *([255 / srgb] * 3)]
    layout.check_ranges(layout.coordinate_ranges([*largest[:2], 0, 0, 0]), "bilateral_sxy")
    ranges = layout.coordinate_ranges(largest)
    layout.check_ranges(ranges, "bilateral_srgb")
    fields = layout.key_fields(ranges, tiles.count * TILE)
    if fields is None:
        return _build_wide(image_HW3, sigmas, tiles, workspace)
    return _build_packed(image_HW3, sigmas, tiles, fields, workspace)


def _difference(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F32:
    """Run mean-field inference; return Q(1) - Q(0) of every pixel."""
    height, width = image_HW3.shape[:2]
    assert energy_2N.shape == (2, height * width), (energy_2N.shape, image_HW3.shape)
    # The code is compiled for writable C arrays; arrays from Ray's object store are read-only.
    image_HW3 = np.require(image_HW3, np.uint8, ["C", "W"])
    energy_2N = np.require(energy_2N, np.float32, ["C", "W"])
    tiles, workspace = layout.tiles_of(height, width), workspace_of_thread()
    at, near = (
        position_lattice(image_HW3, params.gaussian_sxy, tiles, workspace),
        colour_lattice(image_HW3, params, tiles, workspace),
    )
    s_N = np.empty(height * width, np.float32)
    mean_field.mean_field(
        energy_2N.reshape(-1), astuple(tiles),
        workspace.take("prior", tiles.count * TILE, np.float32),
        workspace.take("known", tiles.count * TILE, np.float32),
        workspace.take("resting", tiles.count, np.uint8), params.iterations,
        np.float32(params.gaussian_compat), np.float32(params.bilateral_compat),
        at.vertices, at.weights, at.neighbours, at.count,
        workspace.take("sums3", at.count + 1, np.float32),
        workspace.take("values3", at.count + 1, np.float32),
        workspace.take("other3", at.count + 1, np.float32),
        near.vertices, near.weights, near.neighbours, near.count,
        workspace.take("sums6", near.count + 1, np.float32),
        workspace.take("values6", near.count + 1, np.float32),
        workspace.take("other6", near.count + 1, np.float32),
        s_N,
    )  # fmt: skip
    workspace.trim()
    return s_N.reshape(height, width)


def crf(image_HW3: U8, energy_2N: F32, params: CrfParams) -> Bool:
    """Most probable label of every pixel after mean-field inference.

    Shape: H W 3, 2 N -> H W. Raises: ConfigError if a kernel is too narrow for the image.
    Reference: Eqn 6.
    """
    mask_HW: Bool = _difference(image_HW3, energy_2N, params) > 0
    return mask_HW


def foreground_probability(image_HW3: U8, energy_2N: F32, params: CrfParams) -> F32:
    """Mean-field probability of label 1.

    Shape: H W 3, 2 N -> H W. Range: 0..1. Raises: ConfigError as `crf`.
    """
    difference_HW = _difference(image_HW3, energy_2N, params)
    return np.float32(0.5) + np.float32(0.5) * difference_HW
