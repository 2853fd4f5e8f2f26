"""Foreground colours: what half-covered pixels would show without the background behind them.

A pixel with alpha a shows I = a F + (1 - a) B. Of all F and B that explain it, those are taken that
differ least from their neighbours', above all where alpha changes. Each level of a pyramid starts
from the result of the level above it.
Source: Germer et al., "Fast Multi-Level Foreground Estimation", ICPR 2020.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from a2s.data.arrays import F32, U8

_MAX_SIDE = 640
"""Longest side in pixels at which the pyramid ends; larger images add details to its result."""
_SMOOTH, _SMOOTH_AT_EDGE = 1e-5, 0.1
"""Weight of a neighbour, and how much more it is per difference in alpha."""
_ITERATIONS, _ITERATIONS_SMALL, _SMALL_SIDE = 2, 10, 32
"""Jacobi iterations per level, and at levels up to a side in pixels."""
_NEIGHBOURS = ((0, 1), (2, 1), (1, 0), (1, 2))
"""Offsets of the four neighbours in an array padded by one pixel."""
_STRIP = 256


def foreground_colours(image_HW3: U8, alpha_HW: U8) -> U8:
    """Colours F of a matte; opaque pixels keep theirs exactly.

    Shape: H W 3, H W -> H W 3.
    """
    height, width = alpha_HW.shape
    scale = min(1.0, _MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = _share(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA))
    alpha = _share(cv2.resize(alpha_HW, size, interpolation=cv2.INTER_AREA))
    front_HW3, back_HW3 = (_enlarged(c, width, height) for c in _pyramid(image, alpha))
    result = np.empty_like(image_HW3)
    # In strips, because a 12-megapixel picture would take half a gigabyte in floating point.
    for first in range(0, height, _STRIP):
        rows = slice(first, first + _STRIP)
        parts = (image_HW3, alpha_HW, front_HW3, back_HW3)
        result[rows] = np.rint(255 * _with_details(*(_share(part[rows]) for part in parts)))
    return result


def _pyramid(image: F32, alpha: F32) -> tuple[F32, F32]:
    """F and B of a small image. Shape: h w 3, h w -> h w 3 twice."""
    height, width = alpha.shape
    front, back = (_mean_colour(image, mask) for mask in (alpha > 0.9, alpha < 0.1))
    num_levels = max(1, math.ceil(math.log2(max(height, width))))
    for level in range(num_levels + 1):
        share = level / num_levels
        size = (max(1, round(width**share)), max(1, round(height**share)))
        iterations = _ITERATIONS_SMALL if max(size) <= _SMALL_SIDE else _ITERATIONS
        front, back = _level(
            _resized(image, size, cv2.INTER_AREA),
            _resized(alpha, size, cv2.INTER_AREA),
            _resized(front, size, cv2.INTER_NEAREST),
            _resized(back, size, cv2.INTER_NEAREST),
            iterations,
        )
    return front, back


def _mean_colour(image: F32, mask: npt.NDArray[np.bool_]) -> F32:
    """Mean of the pixels of a mask, of all if there are none. Shape: h w 3, h w -> 1 1 3."""
    pixels = image[mask] if mask.any() else image.reshape(-1, 3)
    return np.asarray(pixels.mean(0).reshape(1, 1, 3), dtype=np.float32)


def _resized(values: F32, size: tuple[int, int], interpolation: int) -> F32:
    return np.asarray(cv2.resize(values, size, interpolation=interpolation), dtype=np.float32)


def _level(image: F32, alpha: F32, front: F32, back: F32, iterations: int) -> tuple[F32, F32]:
    """Solve the two equations of each pixel with its neighbours' colours, several times.

    Shape: h w 3, h w, h w 3 twice -> h w 3 twice.
    """
    h, w = alpha.shape
    padded = cv2.copyMakeBorder(alpha, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    weights = [
        (_SMOOTH + _SMOOTH_AT_EDGE * np.abs(alpha - padded[y : y + h, x : x + w]))[..., None]
        for y, x in _NEIGHBOURS
    ]
    total = np.add.reduce(weights)
    a, b = alpha[..., None], 1 - alpha[..., None]
    aa, bb, ab = a * a + total, b * b + total, a * b
    determinant = aa * bb - ab * ab
    for _ in range(iterations):
        sums = []
        for colours, share in ((front, a), (back, b)):
            around = cv2.copyMakeBorder(colours, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
            parts = (
                weight * around[y : y + h, x : x + w]
                for weight, (y, x) in zip(weights, _NEIGHBOURS, strict=True)
            )
            sums.append(sum(parts, share * image))
        front = np.clip((bb * sums[0] - ab * sums[1]) / determinant, 0, 1)
        back = np.clip((aa * sums[1] - ab * sums[0]) / determinant, 0, 1)
    return front, back


def _with_details(image: F32, alpha: F32, front: F32, back: F32) -> F32:
    """Give F what a F + (1 - a) B leaves unexplained. Shape: h w 3, h w, h w 3 twice -> h w 3."""
    a = alpha[..., None]
    found = front + a * (image - a * front - (1 - a) * back)
    return np.asarray(np.clip(found, 0, 1), dtype=np.float32)


def _enlarged(colours: F32, width: int, height: int) -> U8:
    levels = np.rint(colours * 255).astype(np.uint8)
    return np.asarray(cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR))


def _share(levels: npt.ArrayLike) -> F32:
    return np.asarray(levels, dtype=np.float32) / np.float32(255)
