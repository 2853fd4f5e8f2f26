"""Lattice of position and colour whose keys fit, with a vertex number, into one 64-bit word.

Makes the same vertices in the same order as `lattice_wide`, several times as fast: it embeds a
whole tile at once, and most hash look-ups end at the first probe.
"""

from __future__ import annotations

import numpy as np

from a2s.labels.crf.numba_backend.jit import exact

TILE = 64
_ROWS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)
_f32, _i32, _i64, _u32, _u64 = np.float32, np.int32, np.int64, np.uint32, np.uint64


@exact
def _load(image, height, width, tile_height, tile_width, tile, features):
    """Load position and colour of a tile; repeat the last pixel beyond the image's edge."""
    across = (width + tile_width - 1) // tile_width
    tiles_down = (height + tile_height - 1) // tile_height
    top, left = tile // across * tile_height, tile % across * tile_width
    slot = _u64(0)
    for row in range(tile_height):
        y = min(top + row, height - 1)
        for column in range(tile_width):
            x = min(left + column, width - 1)
            pixel = _u64(3 * (y * width + x))
            features[slot] = x
            features[slot + _u64(TILE)] = y
            features[slot + _u64(2 * TILE)] = image[pixel]
            features[slot + _u64(3 * TILE)] = image[pixel + _u64(1)]
            features[slot + _u64(4 * TILE)] = image[pixel + _u64(2)]
            slot += _u64(1)
    if height * width % 4 != 0 and tile == tiles_down * across - 1:
        # As in `layout.features_of`: one slot for the padding of the reference implementation.
        for plane in range(5):
            features[_u64(plane * TILE + TILE - 1)] = 0


@exact
def _clear_padding(height, width, tile_height, tile_width, tile, weights):
    across = (width + tile_width - 1) // tile_width
    top, left = tile // across * tile_height, tile % across * tile_width
    if top + tile_height <= height and left + tile_width <= width:
        return
    for slot in range(TILE):
        if top + slot // tile_width >= height or left + slot % tile_width >= width:
            for row in range(_ROWS):
                weights[(tile * _ROWS + row) * TILE + slot] = 0


@exact
def _less(a, b):
    return _i32(1) if a < b else _i32(0)


@exact
def _wrap(rank):
    """Correction that brings a rank back into 0..5, in units of 6."""
    return (_i32(1) if rank < _i32(0) else _i32(0)) - (_i32(1) if rank > _i32(5) else _i32(0))


@exact
def _if_equal(a, b, unit):
    return unit if a == b else _i64(0)


@exact
def _simplex(features, sigmas, scales, units, remainder, base, keys, weights, start):
    """Keys and weights of the six vertices of every slot of a tile.

    Written out, not in loops, for the compiler to do many slots at once. Float operations come in
    the order of the reference, so that every pixel falls into the same simplex.
    Reference: Adams et al. 2010, section 3.
    """
    g0, g1, g2, g3, g4 = sigmas[0], sigmas[1], sigmas[2], sigmas[3], sigmas[4]
    f0, f1, f2, f3, f4 = scales[0], scales[1], scales[2], scales[3], scales[4]
    u0, u1, u2, u3, u4 = units[0], units[1], units[2], units[3], units[4]
    sixth, six = _f32(1.0 / 6), _f32(6)
    for slot in range(TILE):
        s = _u64(slot)
        c = features[s + _u64(4 * TILE)] / g4 * f4
        e5, total = -(_f32(5) * c), c
        c = features[s + _u64(3 * TILE)] / g3 * f3
        e4, total = total - _f32(4) * c, total + c
        c = features[s + _u64(2 * TILE)] / g2 * f2
        e3, total = total - _f32(3) * c, total + c
        c = features[s + _u64(TILE)] / g1 * f1
        e2, total = total - _f32(2) * c, total + c
        c = features[s] / g0 * f0
        e1, e0 = total - c, total + c

        v0, v1, v2 = np.rint(e0 * sixth), np.rint(e1 * sixth), np.rint(e2 * sixth)
        v3, v4, v5 = np.rint(e3 * sixth), np.rint(e4 * sixth), np.rint(e5 * sixth)
        q0, q1, q2, q3, q4 = _i32(v0), _i32(v1), _i32(v2), _i32(v3), _i32(v4)
        surplus = q0 + q1 + q2 + q3 + q4 + _i32(v5)
        d0, d1, d2 = e0 - six * v0, e1 - six * v1, e2 - six * v2
        d3, d4, d5 = e3 - six * v3, e4 - six * v4, e5 - six * v5

        b01, b02, b03, b04, b05 = (
            _less(d0, d1), _less(d0, d2), _less(d0, d3), _less(d0, d4), _less(d0, d5)
        )  # fmt: skip
        b12, b13, b14, b15 = _less(d1, d2), _less(d1, d3), _less(d1, d4), _less(d1, d5)
        b23, b24, b25 = _less(d2, d3), _less(d2, d4), _less(d2, d5)
        b34, b35, b45 = _less(d3, d4), _less(d3, d5), _less(d4, d5)
        r0 = surplus + b01 + b02 + b03 + b04 + b05
        r1 = surplus + _i32(1) - b01 + b12 + b13 + b14 + b15
        r2 = surplus + _i32(2) - b02 - b12 + b23 + b24 + b25
        r3 = surplus + _i32(3) - b03 - b13 - b23 + b34 + b35
        r4 = surplus + _i32(4) - b04 - b14 - b24 - b34 + b45
        r5 = surplus + _i32(5) - b05 - b15 - b25 - b35 - b45

        # A point off the plane of lattice points is brought back onto it.
        w0, w1, w2, w3, w4, w5 = _wrap(r0), _wrap(r1), _wrap(r2), _wrap(r3), _wrap(r4), _wrap(r5)
        q0, q1, q2, q3, q4 = q0 + w0, q1 + w1, q2 + w2, q3 + w3, q4 + w4
        r0, r1, r2 = r0 + _i32(6) * w0, r1 + _i32(6) * w1, r2 + _i32(6) * w2
        r3, r4 = r3 + _i32(6) * w3, r4 + _i32(6) * w4
        d0, d1, d2 = d0 - six * _f32(w0), d1 - six * _f32(w1), d2 - six * _f32(w2)
        d3, d4, d5 = d3 - six * _f32(w3), d4 - six * _f32(w4), d5 - six * _f32(w5)

        # Weights are the gaps between the sorted distances: a sorting network of twelve swaps.
        d0, d5 = max(d0, d5), min(d0, d5)
        d1, d3 = max(d1, d3), min(d1, d3)
        d2, d4 = max(d2, d4), min(d2, d4)
        d1, d2 = max(d1, d2), min(d1, d2)
        d3, d4 = max(d3, d4), min(d3, d4)
        d0, d3 = max(d0, d3), min(d0, d3)
        d2, d5 = max(d2, d5), min(d2, d5)
        d0, d1 = max(d0, d1), min(d0, d1)
        d2, d3 = max(d2, d3), min(d2, d3)
        d4, d5 = max(d4, d5), min(d4, d5)
        d1, d2 = max(d1, d2), min(d1, d2)
        d3, d4 = max(d3, d4), min(d3, d4)
        at = _u64(start + slot)
        weights[at] = _f32(1) - (d0 - d5) * sixth
        weights[at + _u64(TILE)] = (d4 - d5) * sixth
        weights[at + _u64(2 * TILE)] = (d3 - d4) * sixth
        weights[at + _u64(3 * TILE)] = (d2 - d3) * sixth
        weights[at + _u64(4 * TILE)] = (d1 - d2) * sixth
        weights[at + _u64(5 * TILE)] = (d0 - d1) * sixth

        key = _i64(q0) * u0 + _i64(q1) * u1 + _i64(q2) * u2 + _i64(q3) * u3 + _i64(q4) * u4 - base
        keys[s] = key
        for row in range(1, _ROWS):
            # The next vertex is one up in all coordinates, and six down in that of this rank.
            rank = _i32(_ROWS - row)
            key += (
                remainder
                - _if_equal(r0, rank, u0)
                - _if_equal(r1, rank, u1)
                - _if_equal(r2, rank, u2)
                - _if_equal(r3, rank, u3)
                - _if_equal(r4, rank, u4)
            )
            keys[s + _u64(row * TILE)] = key


@exact
def _number(tile_keys, start, keys, count, table, shift, number_bits, vertices, pending, places):
    """Vertex numbers of a tile's keys; new keys get the next numbers, slot by slot."""
    low_bits = (_i64(1) << number_bits) - _i64(1)
    wrap = _u64(table.size - 1)
    num_pending = _u64(0)
    for i in range(_ROWS * TILE):
        key = tile_keys[_u64(i)]
        place = (_u64(key) * _MIX) >> shift
        entry = table[place]
        vertices[_u64(start + i)] = _u32(entry & low_bits)
        pending[num_pending] = i
        places[num_pending] = place
        num_pending += _u64((entry >> number_bits) != key)
    for p in range(_i64(num_pending)):
        i = pending[_u64(p)]
        key = tile_keys[_u64(i)]
        place = places[_u64(p)]
        entry = table[place]
        while (entry >> number_bits) != key:
            if entry == 0:
                entry = (key << number_bits) | count
                table[place] = entry
                keys[_u64(count)] = key
                count += 1
                break
            place = (place + _u64(1)) & wrap
            entry = table[place]
        vertices[_u64(start + i)] = _u32(entry & low_bits)
    return count


@exact
def rehash(keys, count, table, shift, number_bits):
    """Fill an empty table from the keys; an entry is a key and its vertex number, 0 a hole."""
    wrap = _u64(table.size - 1)
    for number in range(count):
        key = keys[_u64(number)]
        place = (_u64(key) * _MIX) >> shift
        while table[place] != 0:
            place = (place + _u64(1)) & wrap
        table[place] = (key << number_bits) | number


@exact
def embed(
    image, tiles, sigmas, scales, units, remainder, base, number_bits,
    first_tile, count, keys, table, shift, vertices, weights,
):  # fmt: skip
    """Find the simplex of every slot and number its vertices, until the table is half full.

    `tiles` is (height, width, tile_height, tile_width, number of tiles). Gives the tile that comes
    next and the number of vertices so far; call again with a larger table when tiles are left.
    """
    height, width, tile_height, tile_width, num_tiles = tiles
    features = np.empty(5 * TILE, np.float32)
    tile_keys = np.empty(_ROWS * TILE, np.int64)
    pending = np.empty(_ROWS * TILE + 1, np.int64)
    places = np.empty(_ROWS * TILE + 1, np.uint64)
    for tile in range(first_tile, num_tiles):
        if 2 * (count + _ROWS * TILE) > table.size:
            return tile, count
        start = tile * _ROWS * TILE
        _load(image, height, width, tile_height, tile_width, tile, features)
        _simplex(
            features, sigmas, scales, units, remainder, base, tile_keys, weights, start
        )  # fmt: skip
        _clear_padding(height, width, tile_height, tile_width, tile, weights)
        count = _number(
            tile_keys, start, keys, count, table, shift, number_bits, vertices, pending, places
        )  # fmt: skip
    return num_tiles, count


@exact
def find_neighbours(units, remainder, keys, count, table, shift, number_bits, neighbours):
    """Find both neighbours of every vertex in every blur direction; `count` if there is none.

    Flat (direction, side, count + 1). In direction j one neighbour is a step down in all
    coordinates and six up in coordinate j; the other is its mirror, so half the look-ups do.
    """
    low_bits = (_i64(1) << number_bits) - _i64(1)
    wrap = _u64(table.size - 1)
    stride = count + 1
    block = 256
    wanted = np.empty(block, np.int64)
    pending = np.empty(block + 1, np.int64)
    places = np.empty(block + 1, np.uint64)
    one_all = units[0] + units[1] + units[2] + units[3] + units[4]
    for direction in range(_ROWS):
        before = 2 * direction * stride
        behind = before + stride
        # From remainder 0 a step down borrows: remainder 5, and one less in every field.
        down, borrow = units[direction] - remainder, units[direction] + 5 * remainder - one_all
        for number in range(stride):
            neighbours[_u64(behind + number)] = count
        for first in range(0, count, block):
            size = min(block, count - first)
            for i in range(size):
                key = keys[_u64(first + i)]
                wanted[_u64(i)] = key + (down if key >= remainder else borrow)
            num_pending = _u64(0)
            for i in range(size):
                key = wanted[_u64(i)]
                place = (_u64(key) * _MIX) >> shift
                entry = table[place]
                found = (entry >> number_bits) == key
                other = (entry & low_bits) if found else count
                neighbours[_u64(before + first + i)] = other
                neighbours[_u64(behind + other)] = first + i
                pending[num_pending] = i
                places[num_pending] = place
                num_pending += _u64((entry != 0) & (not found))
            # Collisions: one probe more for all that are left, until none is.
            while num_pending > 0:
                num_left = _u64(0)
                for p in range(_i64(num_pending)):
                    i = pending[_u64(p)]
                    key = wanted[_u64(i)]
                    place = (places[_u64(p)] + _u64(1)) & wrap
                    entry = table[place]
                    found = (entry >> number_bits) == key
                    other = (entry & low_bits) if found else count
                    neighbours[_u64(before + (first + i if found else count))] = other
                    neighbours[_u64(behind + other)] = first + i
                    pending[num_left] = i
                    places[num_left] = place
                    num_left += _u64((entry != 0) & (not found))
                num_pending = num_left
        # Misses were written to the last entry, which stands for "no vertex".
        neighbours[_u64(before + count)] = count
        neighbours[_u64(behind + count)] = count
