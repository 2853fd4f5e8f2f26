"""Mean field of two labels on two lattices: positions (d = 2), and positions with colours (d = 5).

One number per pixel, s = Q(1) - Q(0): logit = E(0) - E(1) + sum over kernels of weight * K s, and
s = tanh(logit / 2). The symmetric normalisation of K is folded into the lattice's weights.
Reference: Krähenbühl and Koltun 2011, algorithm 1.
"""

from __future__ import annotations

import numpy as np

from a2s.labels.crf.numba_backend.jit import fast

TILE = 64
_NEGLIGIBLE = np.float32(1e-4)
_SLOW, _SATURATED = np.float32(1e-3), np.float32(0.999)
_MOVING, _SURPRISE = np.float32(0.1), np.float32(0.1)
_REST = 3
_f32, _i32, _u64 = np.float32, np.int32, np.uint64


@fast
def _tanh_half(x):
    """tanh(x / 2) with an error of about 2e-7, in operations that the compiler can vectorise."""
    y = x * _f32(-1.4426950408889634)
    y = y if y > _f32(-43) else _f32(-43)
    y = y if y < _f32(43) else _f32(43)
    power = _i32(y + _f32(64.5)) - _i32(64)
    z = y - _f32(power)
    e = _f32(0.009618129107628477) + z * _f32(0.0013333558146428443)
    e = _f32(0.2402265069591007) + z * (_f32(0.05550410866482158) + z * e)
    e = _f32(1) + z * (_f32(0.6931471805599453) + z * e)
    e *= _i32((power + 127) << 23).view(np.float32)
    return (_f32(1) - e) / (_f32(1) + e)


@fast
def _blur(source, target, neighbours, direction, stride):
    before = 2 * direction * stride
    behind = before + stride
    for i in range(stride):
        around = source[neighbours[_u64(before + i)]] + source[neighbours[_u64(behind + i)]]
        target[_u64(i)] = source[_u64(i)] + _f32(0.5) * around


@fast
def _splat3(vertices, weights, start, s, values):
    for slot in range(TILE):
        x = s[_u64(slot)]
        for row in range(3):
            at = _u64(start + row * TILE + slot)
            values[vertices[at]] += weights[at] * x


@fast
def _splat6(vertices, weights, start, s, values):
    for slot in range(TILE):
        x = s[_u64(slot)]
        for row in range(6):
            at = _u64(start + row * TILE + slot)
            values[vertices[at]] += weights[at] * x


@fast
def _slice3(vertices, weights, start, values, out):
    for slot in range(TILE):
        total = _f32(0)
        for row in range(3):
            at = _u64(start + row * TILE + slot)
            total += weights[at] * values[vertices[at]]
        out[_u64(slot)] = total


@fast
def _slice6(vertices, weights, start, values, out):
    for slot in range(TILE):
        total = _f32(0)
        for row in range(6):
            at = _u64(start + row * TILE + slot)
            total += weights[at] * values[vertices[at]]
        out[_u64(slot)] = total


@fast
def normalise(rows, vertices, weights, neighbours, count, values, other):
    """Fold 1 / sqrt(K 1) into the weights. Reference: NORMALIZE_SYMMETRIC of the authors' code."""
    num_tiles = vertices.size // (rows * TILE)
    factor = np.ones(TILE, np.float32)
    values[: count + 1] = 0
    for tile in range(num_tiles):
        if rows == 3:
            _splat3(vertices, weights, tile * rows * TILE, factor, values)
        else:
            _splat6(vertices, weights, tile * rows * TILE, factor, values)
    for direction in range(rows):
        _blur(values, other, neighbours, direction, count + 1)
        values, other = other, values
    for tile in range(num_tiles):
        start = tile * rows * TILE
        if rows == 3:
            _slice3(vertices, weights, start, values, factor)
        else:
            _slice6(vertices, weights, start, values, factor)
        for slot in range(TILE):
            factor[slot] = _f32(1) / np.sqrt(factor[slot] + _f32(1e-20))
        for row in range(rows):
            for slot in range(TILE):
                weights[_u64(start + row * TILE + slot)] *= factor[_u64(slot)]


@fast
def _update(prior, start, position, colour, position_weight, colour_weight, s):
    # Two loops: the compiler vectorises only if few arrays can alias.
    for slot in range(TILE):
        i = _u64(slot)
        s[i] = position_weight * position[i] + colour_weight * colour[i]
    for slot in range(TILE):
        i = _u64(slot)
        s[i] = _tanh_half(prior[_u64(start + slot)] + s[i])


@fast
def _change(s, known, start, change):
    """Difference of a tile's s from the s last added to the vertices; return the largest."""
    for slot in range(TILE):
        i = _u64(slot)
        change[i] = s[i] - known[_u64(start + slot)]
    largest = _f32(0)
    for slot in range(TILE):
        largest = max(largest, abs(change[_u64(slot)]))
    return largest


@fast
def _least(s):
    least = _f32(1)
    for slot in range(TILE):
        least = min(least, abs(s[_u64(slot)]))
    return least


@fast
def _prior(energy, tiles, prior):
    """Unary logit of label 1, in tiles; 0 in the padding."""
    height, width, tile_height, tile_width, num_tiles = tiles
    across = (width + tile_width - 1) // tile_width
    for tile in range(num_tiles):
        top, left = tile // across * tile_height, tile % across * tile_width
        at = _u64(tile * TILE)
        for y in range(top, top + tile_height):
            for x in range(left, left + tile_width):
                prior[at] = 0
                if y < height and x < width:
                    pixel = y * width + x
                    prior[at] = energy[_u64(pixel)] - energy[_u64(height * width + pixel)]
                at += _u64(1)


@fast
def _store(s, tiles, tile, out):
    height, width, tile_height, tile_width, _ = tiles
    across = (width + tile_width - 1) // tile_width
    top, left = tile // across * tile_height, tile % across * tile_width
    for y in range(top, min(top + tile_height, height)):
        slot = (y - top) * tile_width
        for x in range(left, min(left + tile_width, width)):
            out[_u64(y * width + x)] = s[_u64(slot + x - left)]


@fast
def _iterate(
    prior, tiles, known, resting, rest, iterations, position_weight, colour_weight,
    vertices3, weights3, neighbours3, count3, sums3, values3, other3,
    vertices6, weights6, neighbours6, count6, sums6, values6, other6, out,
):  # fmt: skip
    """Run all iterations; False if a tile changed by more than `_SURPRISE` while it was skipped."""
    num_tiles = tiles[4]
    across = (tiles[1] + tiles[3] - 1) // tiles[3]
    # Last iteration that must not skip a tile; with one extra tile on each side of the image.
    awake = np.full((num_tiles // across + 2) * (across + 2), -1, np.int64)
    stride3, stride6 = count3 + 1, count6 + 1
    s = np.empty(TILE, np.float32)
    position = np.zeros(TILE, np.float32)
    colour = np.zeros(TILE, np.float32)
    change = np.empty(TILE, np.float32)
    known[:] = 0
    resting[:] = 0
    sums3[:stride3] = 0
    sums6[:stride6] = 0
    for iteration in range(iterations + 1):
        if iteration > 0:
            # On a sparse lattice the directions do not commute: use the reference's order.
            _blur(sums3, values3, neighbours3, 0, stride3)
            _blur(values3, other3, neighbours3, 1, stride3)
            _blur(other3, values3, neighbours3, 2, stride3)
            _blur(sums6, other6, neighbours6, 0, stride6)
            _blur(other6, values6, neighbours6, 1, stride6)
            _blur(values6, other6, neighbours6, 2, stride6)
            _blur(other6, values6, neighbours6, 3, stride6)
            _blur(values6, other6, neighbours6, 4, stride6)
            _blur(other6, values6, neighbours6, 5, stride6)
        last = iteration == iterations
        for tile in range(num_tiles):
            spot = (tile // across + 1) * (across + 2) + tile % across + 1
            if resting[_u64(tile)] > 1 and awake[_u64(spot)] < iteration and not last:
                resting[_u64(tile)] -= 1
                continue
            start3, start6 = tile * 3 * TILE, tile * 6 * TILE
            if iteration > 0:
                _slice3(vertices3, weights3, start3, values3, position)
                _slice6(vertices6, weights6, start6, values6, colour)
            _update(prior, tile * TILE, position, colour, position_weight, colour_weight, s)
            largest = _change(s, known, tile * TILE, change)
            if resting[_u64(tile)] > 0 and largest > _SURPRISE:
                return False
            if last:
                _store(s, tiles, tile, out)
                continue
            if largest > _NEGLIGIBLE:
                _splat3(vertices3, weights3, start3, change, sums3)
                _splat6(vertices6, weights6, start6, change, sums6)
                for slot in range(TILE):
                    known[_u64(tile * TILE + slot)] = s[_u64(slot)]
            if largest > _MOVING:
                for row in range(-1, 2):
                    for column in range(-1, 2):
                        awake[_u64(spot + row * (across + 2) + column)] = iteration + 1
            settled = largest <= _NEGLIGIBLE or (largest < _SLOW and _least(s) > _SATURATED)
            resting[_u64(tile)] = rest + 1 if settled and rest > 0 else 0
    return True


@fast
def mean_field(
    energy, tiles, prior, known, resting, iterations, position_weight, colour_weight,
    vertices3, weights3, neighbours3, count3, sums3, values3, other3,
    vertices6, weights6, neighbours6, count6, sums6, values6, other6, out,
):  # fmt: skip
    """Run `iterations` parallel updates of all pixels; write Q(1) - Q(0) of every pixel to `out`.

    Incremental: vertices keep their sums, and a tile only adds the change of its s. A change of at
    most `_NEGLIGIBLE` in a whole tile is not added yet, but accumulates. Converged tiles are
    skipped for `_REST` iterations: those with such a change, and those that are `_SATURATED` and
    changed by less than `_SLOW`. A tile that changed by more than `_MOVING`, and its neighbours,
    are not skipped in the next iteration.

    The error is bounded by a check: the last iteration updates all tiles, and if a tile has changed
    by more than `_SURPRISE` while it was skipped, everything is computed again without skipping. So
    the s in the vertices' sums is off by at most `_SURPRISE` in any pixel, and by at most
    `_NEGLIGIBLE` in pixels that are not skipped, in a range of 2.

    Returns the number of iterations that tiles were skipped for; 0 after such a second run.
    """
    _prior(energy, tiles, prior)
    for rest in (_REST, 0):
        done = _iterate(
            prior, tiles, known, resting, rest, iterations, position_weight, colour_weight,
            vertices3, weights3, neighbours3, count3, sums3, values3, other3,
            vertices6, weights6, neighbours6, count6, sums6, values6, other6, out,
        )  # fmt: skip
        if done:
            break
    return rest
