"""Memory layout: pixels in tiles, lattice vertices as integer keys."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from a2s.data.arrays import F32, U8
from a2s.errors import ConfigError

TILE = 64
MAX_COORDINATE = 2**19
"""Limit of lattice coordinates: float32 and the widest key cannot represent larger ones exactly."""


@dataclass(frozen=True)
class Tiles:
    """Tiling of an image in tiles of `TILE` pixels, with padding at the right and lower edge."""

    height: int
    width: int
    tile_height: int
    tile_width: int
    count: int


def tiles_of(height: int, width: int) -> Tiles:
    """Tile an image: square tiles, unless the image is thinner than a tile."""
    tile_height = min(8, 1 << (height - 1).bit_length())
    tile_width = min(TILE // tile_height, 1 << (width - 1).bit_length())
    tile_height = TILE // tile_width
    count = -(-height // tile_height) * -(-width // tile_width)
    return Tiles(height, width, tile_height, tile_width, count)


def scale_factors(dimensions: int) -> F32:
    """Scale of each feature on the lattice, rounded as the reference rounds it.

    Reference: Adams et al. 2010, p. 5.
    """
    deviation = float(np.float32(math.sqrt(2.0 / 3.0) * (dimensions + 1)))
    return np.array(
        [1.0 / math.sqrt((i + 2) * (i + 1)) * deviation for i in range(dimensions)], np.float32
    )


def coordinate_ranges(largest: list[float]) -> list[tuple[float, float]]:
    """Smallest and largest lattice coordinate, for features from 0 to `largest`."""
    scaled = [f * s for f, s in zip(largest, scale_factors(len(largest)), strict=True)]
    ranges = [(0.0, sum(scaled))]
    for i, extent in enumerate(scaled, 1):
        ranges.append((-i * extent, sum(scaled[i:])))
    return ranges


def check_ranges(ranges: list[tuple[float, float]], what: str) -> None:
    """Refuse kernels so narrow that lattice coordinates exceed `MAX_COORDINATE`.

    Raises: ConfigError.
    """
    reach = max(max(-low, high) for low, high in ranges)
    if reach >= MAX_COORDINATE:
        raise ConfigError(
            f"CRF: {what} is too small for the image: lattice coordinates reach {reach:.3g},"
            f" the limit is {MAX_COORDINATE}; use a larger {what}"
        )


@dataclass(frozen=True)
class KeyFields:
    """Bit fields of a 64-bit word that holds the key of a vertex and its number.

    From the lowest bit: the vertex number, then one field per coordinate, then the remainder.
    A key is the word without the number. `units` has one entry per blur direction; the last
    coordinate follows from the others and has no field.
    """

    units: tuple[int, ...]
    remainder: int
    lows: tuple[int, ...]
    number_bits: int


def key_fields(ranges: list[tuple[float, float]], num_pixels: int) -> KeyFields | None:
    """Narrowest fields that hold every vertex and its neighbours; None if 64 bits are too few."""
    size = len(ranges)
    units, lows, shift = [], [], 0
    for low, high in ranges[:-1]:
        # A simplex reaches one step beyond the rounded coordinate, its neighbours one more.
        first, last = math.floor(low / size) - 4, math.ceil(high / size) + 4
        units.append(1 << shift)
        lows.append(first)
        shift += (last - first).bit_length()
    number_bits = (size * num_pixels).bit_length()
    if shift + size.bit_length() + number_bits > 63:
        return None
    return KeyFields((*units, 0), 1 << shift, tuple(lows), number_bits)


def features_of(
    image_HW3: U8, sigmas: tuple[float, ...], tiles: Tiles
) -> tuple[F32, npt.NDArray[np.bool_]]:
    """Features in tiles (position; also colour if there are five sigmas), mask of real pixels.

    Shape: H W 3 -> flat (count, dimensions, TILE), flat (count, TILE).
    """
    down, across = -(-tiles.height // tiles.tile_height), -(-tiles.width // tiles.tile_width)
    y_H, x_W = np.arange(down * tiles.tile_height), np.arange(across * tiles.tile_width)
    real_HW = (y_H < tiles.height)[:, None] & (x_W < tiles.width)
    y_H, x_W = np.minimum(y_H, tiles.height - 1), np.minimum(x_W, tiles.width - 1)
    planes = [np.broadcast_to(x_W, real_HW.shape), np.broadcast_to(y_H[:, None], real_HW.shape)]
    if len(sigmas) == 5:
        planes += list(image_HW3[y_H[:, None], x_W].transpose(2, 0, 1))

    def in_tiles(plane_HW: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        shape = down, tiles.tile_height, across, tiles.tile_width
        return plane_HW.reshape(shape).swapaxes(1, 2).reshape(tiles.count, TILE)

    features = [
        in_tiles(plane).astype(np.float32) / np.float32(sigma)
        for plane, sigma in zip(planes, sigmas, strict=True)
    ]
    features_TDS = np.stack(features, axis=1)
    if tiles.height * tiles.width % 4:
        # The reference implementation processes four pixels at a time and pads with zeros. The
        # padding's vertices have value 0, but values are blurred through them. Our last slot is
        # padding too, so it can stand for that of the reference.
        features_TDS[-1, :, -1] = 0
    return features_TDS.ravel(), in_tiles(real_HW).astype(np.bool_).ravel()
