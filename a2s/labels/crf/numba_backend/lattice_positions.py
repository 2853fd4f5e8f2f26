"""Lattice of positions (d = 2), built once per image size: keys index a table directly.

Makes the same vertices as `lattice_wide`. Positions fill the plane, so a table with an entry per
possible key is not much larger than the lattice.
"""

from __future__ import annotations

import numpy as np

from a2s.labels.crf.numba_backend.jit import exact

TILE = 64
_ROWS = 3
_f32, _i32, _i64, _u32, _u64 = np.float32, np.int32, np.int64, np.uint32, np.uint64


@exact
def _less(a, b):
    return _i32(1) if a < b else _i32(0)


@exact
def _wrap(rank):
    """Correction that brings a rank back into 0..2, in units of 3."""
    return (_i32(1) if rank < _i32(0) else _i32(0)) - (_i32(1) if rank > _i32(2) else _i32(0))


@exact
def _simplex(x, y, sigma, scales, units, remainder, base, keys, weights, start):
    """Keys and weights of the three vertices of every slot of a tile (see `lattice_packed`)."""
    third, three = _f32(1.0 / 3), _f32(3)
    f0, f1, u0, u1 = scales[0], scales[1], units[0], units[1]
    for slot in range(TILE):
        s = _u64(slot)
        c = y[s] / sigma * f1
        e2, total = -(_f32(2) * c), c
        c = x[s] / sigma * f0
        e1, e0 = total - c, total + c
        v0, v1, v2 = np.rint(e0 * third), np.rint(e1 * third), np.rint(e2 * third)
        q0, q1 = _i32(v0), _i32(v1)
        surplus = q0 + q1 + _i32(v2)
        d0, d1, d2 = e0 - three * v0, e1 - three * v1, e2 - three * v2
        b01, b02, b12 = _less(d0, d1), _less(d0, d2), _less(d1, d2)
        r0 = surplus + b01 + b02
        r1 = surplus + _i32(1) - b01 + b12
        r2 = surplus + _i32(2) - b02 - b12
        w0, w1, w2 = _wrap(r0), _wrap(r1), _wrap(r2)
        q0, q1 = q0 + w0, q1 + w1
        r0, r1 = r0 + _i32(3) * w0, r1 + _i32(3) * w1
        d0, d1, d2 = d0 - three * _f32(w0), d1 - three * _f32(w1), d2 - three * _f32(w2)
        d0, d1 = max(d0, d1), min(d0, d1)
        d1, d2 = max(d1, d2), min(d1, d2)
        d0, d1 = max(d0, d1), min(d0, d1)
        at = _u64(start + slot)
        weights[at] = _f32(1) - (d0 - d2) * third
        weights[at + _u64(TILE)] = (d1 - d2) * third
        weights[at + _u64(2 * TILE)] = (d0 - d1) * third
        key = _i64(q0) * u0 + _i64(q1) * u1 - base
        keys[s] = key
        key += remainder - (u0 if r0 == 2 else _i64(0)) - (u1 if r1 == 2 else _i64(0))
        keys[s + _u64(TILE)] = key
        key += remainder - (u0 if r0 == 1 else _i64(0)) - (u1 if r1 == 1 else _i64(0))
        keys[s + _u64(2 * TILE)] = key


@exact
def embed(tiles, sigma, scales, units, remainder, base, keys, table, vertices, weights):
    """Find the simplex of every slot and number its vertices; return the number of vertices.

    `tiles` is (height, width, tile_height, tile_width, number of tiles); the empty table is filled
    with vertex numbers + 1.
    """
    height, width, tile_height, tile_width, num_tiles = tiles
    across = (width + tile_width - 1) // tile_width
    x, y = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    tile_keys = np.empty(_ROWS * TILE, np.int64)
    count = _i64(0)
    for tile in range(num_tiles):
        top, left = tile // across * tile_height, tile % across * tile_width
        start = tile * _ROWS * TILE
        for slot in range(TILE):
            x[slot] = min(left + slot % tile_width, width - 1)
            y[slot] = min(top + slot // tile_width, height - 1)
        if height * width % 4 != 0 and tile == num_tiles - 1:
            # As in `layout.features_of`: one slot for the padding of the reference implementation.
            x[TILE - 1] = y[TILE - 1] = 0
        _simplex(x, y, sigma, scales, units, remainder, base, tile_keys, weights, start)
        if top + tile_height > height or left + tile_width > width:
            for slot in range(TILE):
                if top + slot // tile_width >= height or left + slot % tile_width >= width:
                    for row in range(_ROWS):
                        weights[start + row * TILE + slot] = 0
        for i in range(_ROWS * TILE):
            key = tile_keys[_u64(i)]
            number = table[_u64(key)]
            if number == 0:
                keys[_u64(count)] = key
                count += 1
                number = _u32(count)
                table[_u64(key)] = number
            vertices[_u64(start + i)] = number - _u32(1)
    return count


@exact
def find_neighbours(units, remainder, keys, count, table, neighbours):
    """Find neighbours as `lattice_packed.find_neighbours` does."""
    stride = count + 1
    for direction in range(_ROWS):
        before = 2 * direction * stride
        behind = before + stride
        down = units[direction] - remainder
        borrow = units[direction] + 2 * remainder - units[0] - units[1]
        for number in range(stride):
            neighbours[_u64(before + number)] = count
            neighbours[_u64(behind + number)] = count
        for number in range(count):
            key = keys[_u64(number)]
            other = table[_u64(key + (down if key >= remainder else borrow))]
            if other != 0:
                neighbours[_u64(before + number)] = other - _u32(1)
                neighbours[_u64(behind + _i64(other) - 1)] = number
