"""Lattice of any dimension with keys of two words: works for every sigma and size, but slower.

Fallback for keys that do not fit into one word (`lattice_packed`) or into a table with an entry per
key (`lattice_positions`). Coordinates are below 2**20, so three 21-bit fields fit into a word.
"""

from __future__ import annotations

import numpy as np

from a2s.labels.crf.numba_backend.jit import exact

TILE = 64
_BITS = np.uint64(21)
_BIAS = np.int64(1 << 20)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MIX_HIGH = np.uint64(0xC2B2AE3D27D4EB4F)


@exact
def _place(low, high, shift):
    return ((low * _MIX) ^ ((high + _MIX) * _MIX_HIGH)) * _MIX >> shift


@exact
def _pack(coordinates, first, last):
    word = np.uint64(0)
    for i in range(first, last):
        word = (word << _BITS) | np.uint64(coordinates[i] + _BIAS)
    return word


@exact
def _find(low, high, keys, table, shift):
    """Table slot of a key, or the empty slot where it belongs."""
    place = _place(low, high, shift)
    while table[place] != 0:
        at = np.uint64(2) * np.uint64(table[place] - np.uint32(1))
        if keys[at] == low and keys[at + np.uint64(1)] == high:
            break
        place = (place + np.uint64(1)) & np.uint64(table.size - 1)
    return place


@exact
def rehash(keys, count, table, shift):
    """Fill an empty table, whose entries are vertex numbers + 1, from the keys."""
    for number in range(count):
        place = _find(keys[2 * number], keys[2 * number + 1], keys, table, shift)
        table[place] = number + 1


@exact
def embed(features, real, scales, first_tile, count, keys, table, shift, vertices, weights):
    """Find the simplex of every slot and number its vertices, until the table is half full.

    Returns the next tile and the number of vertices so far; call again with a larger table if tiles
    are left. Reference: Adams et al. 2010, section 3.
    """
    size = scales.size + 1
    elevated = np.empty(size, np.float32)
    rounded = np.empty(size, np.int64)
    rank = np.empty(size, np.int64)
    weight = np.empty(size + 1, np.float32)
    coordinates = np.empty(size, np.int64)
    num_tiles = real.size // TILE
    for tile in range(first_tile, num_tiles):
        if 2 * (count + size * TILE) > table.size:
            return tile, count
        for slot in range(TILE):
            total = np.float32(0)
            for i in range(size - 1, 0, -1):
                scaled = features[(tile * (size - 1) + i - 1) * TILE + slot] * scales[i - 1]
                elevated[i] = total - np.float32(i) * scaled
                total += scaled
            elevated[0] = total
            surplus = np.int64(0)
            for i in range(size):
                steps = np.int64(np.rint(elevated[i] * np.float32(1.0 / size)))
                rounded[i] = size * steps
                rank[i] = 0
                surplus += steps
            for i in range(size):
                for j in range(i + 1, size):
                    if elevated[i] - np.float32(rounded[i]) < elevated[j] - np.float32(rounded[j]):
                        rank[i] += 1
                    else:
                        rank[j] += 1
            weight[:] = 0
            for i in range(size):
                rank[i] += surplus
                if rank[i] < 0:
                    rank[i] += size
                    rounded[i] += size
                elif rank[i] >= size:
                    rank[i] -= size
                    rounded[i] -= size
                share = (elevated[i] - np.float32(rounded[i])) * np.float32(1.0 / size)
                weight[size - 1 - rank[i]] += share
                weight[size - rank[i]] -= share
            weight[0] += np.float32(1) + weight[size]
            for row in range(size):
                for i in range(size):
                    wraps = rank[i] > size - 1 - row
                    coordinates[i] = rounded[i] + row - (size if wraps else 0)
                low = _pack(coordinates, 0, min(3, size - 1))
                high = _pack(coordinates, 3, size - 1)
                place = _find(low, high, keys, table, shift)
                if table[place] == 0:
                    keys[2 * count] = low
                    keys[2 * count + 1] = high
                    count += 1
                    table[place] = count
                at = (tile * size + row) * TILE + slot
                vertices[at] = table[place] - np.uint32(1)
                weights[at] = weight[row] if real[tile * TILE + slot] else np.float32(0)
    return num_tiles, count


@exact
def find_neighbours(size, keys, count, table, shift, neighbours):
    """Find both neighbours of every vertex in every blur direction; `count` if there is none.

    Flat (direction, side, count + 1). In direction j one neighbour is a step down in all
    coordinates and `size` up in coordinate j; the other is its mirror.
    """
    stride = count + 1
    step = np.empty(size, np.int64)
    for direction in range(size):
        before, behind = 2 * direction * stride, (2 * direction + 1) * stride
        for number in range(stride):
            neighbours[before + number] = count
            neighbours[behind + number] = count
        step[:] = -1 - _BIAS
        step[direction] += size
        # Fields neither overflow nor borrow, so whole words can be added.
        low_step = np.uint64(0)
        for i in range(min(3, size - 1)):
            low_step = (low_step << _BITS) + np.uint64(step[i] + _BIAS)
        high_step = np.uint64(0)
        for i in range(3, size - 1):
            high_step = (high_step << _BITS) + np.uint64(step[i] + _BIAS)
        for number in range(count):
            place = _find(
                keys[2 * number] + low_step, keys[2 * number + 1] + high_step, keys, table, shift
            )
            if table[place] != 0:
                other = table[place] - np.uint32(1)
                neighbours[before + number] = other
                neighbours[behind + other] = number
