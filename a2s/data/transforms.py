"""Augmentation: flips and dropped pixels as deterministic hashes, and input normalisation. Pure.

A draw is an integer hash of (seed, epoch, key, map, pixel), so it does not depend on rank or order.
Every product stays below 2**63, so int64 arithmetic is exact.
Shapes: B images, C channels, H rows, W columns (or 32-bit words).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
# Separate the streams of flips and dropped pixels of one (seed, epoch, key).
FLIP, KEEP, WINDOW, CROP = 1, 2, 3, 4
LEAST_SIDE = 0.8
"""Least side of a window that a detector sees, as a share of the image's."""

Rgb = tuple[float, float, float]
IMAGENET_MEAN: Rgb = (0.485, 0.456, 0.406)
IMAGENET_STD: Rgb = (0.229, 0.224, 0.225)


def _mix(word: Any) -> Any:
    """Bijective 32-bit hash of an int or a tensor; both multipliers are below 2**31."""
    word = word ^ (word >> 16)
    word = (word * 0x21F0AAAD) & MASK
    word = word ^ (word >> 15)
    word = (word * 0x735A2D97) & MASK
    return word ^ (word >> 15)


def hash_u32(*parts: int | Tensor) -> Tensor:
    """Hash integers (each up to 63 bits) and broadcastable int64 tensors of integers.

    Leading Python integers are hashed without tensor operations.
    Shape: the broadcast shape of the tensors among `parts`. Range: [0, 2**32) as int64.
    """
    state: Any = 0
    for part in parts:
        for word in (part & MASK, part >> 32 & MASK):
            state = _mix(state ^ _mix((word + GOLDEN) & MASK))
    return torch.as_tensor(state)


def draw_flip(*, seed: int, epoch: int, key_hash_B: Tensor) -> Tensor:
    """Whether each image is mirrored in this epoch, with probability one half.

    Shape: int64 `[B] -> bool [B]`. Reference: Sec. IV-A (horizontal flip only).
    """
    return (hash_u32(FLIP, seed, epoch, key_hash_B) & 1).bool()


def draw_keep_words(
    *, seed: int, epoch: int, key_hash_B: Tensor, sides: Sequence[tuple[int, int]]
) -> Tensor:
    """Draw which pixels of maps of these (height, width) contribute to the loss, one bit each.

    One hash decides 32 neighbouring pixels. Runs in the loader's workers: on a GPU it would be
    hundreds of small kernel launches, for 13 kB per image.
    Shape: int64 `[B] -> int32 [B, W]`, the words of all maps concatenated.
    Reference: Sec. III-A (half of the pixels are dropped at each iteration).
    """
    words = []
    for map_index, (height, width) in enumerate(sides):
        image_B1 = hash_u32(KEEP, seed, epoch, key_hash_B, map_index)[:, None]
        num_words = -(-height * width // 32)
        words.append(hash_u32(image_B1, torch.arange(num_words, device=key_hash_B.device)))
    return torch.cat(words, dim=1).to(torch.int32)


def unpack_keep(word_BW: Tensor, sides: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Unpack the words of `draw_keep_words` to one mask per map.

    Shape: int32 `[B, W]` -> bool `[B, 1, height, width]` for each of `sides`.
    """
    bit_BN = (word_BW[:, :, None] >> torch.arange(32, device=word_BW.device) & 1).bool().flatten(1)
    masks, start = [], 0
    for height, width in sides:
        masks.append(bit_BN[:, start : start + height * width].view(-1, 1, height, width))
        start += 32 * -(-height * width // 32)
    return masks


def draw_window(
    *, seed: int, epoch: int, step: int, cells: tuple[int, int], share: float
) -> tuple[slice, slice]:
    """Draw the part of all images of a step that is seen, in cells: rows and columns.

    With probability `share` it is a window of at least 0.6 of each side, else everything. All
    ranks draw the same.
    """
    draws = hash_u32(WINDOW, seed, epoch, step, torch.arange(5)).double() / 2**32
    if float(draws[0]) >= share:
        return slice(0, cells[0]), slice(0, cells[1])
    spans = []
    for side, (size, place) in zip(cells, draws[1:].view(2, 2).tolist(), strict=True):
        smallest = math.ceil(0.6 * side)
        length = smallest + int(size * (side - smallest + 1))
        start = int(place * (side - length + 1))
        spans.append(slice(start, start + length))
    return spans[0], spans[1]


def crop_cells(x_BCHW: Tensor, window: tuple[slice, slice], *, cell: int) -> Tensor:
    """Cut a window out of a map whose cells have `cell` pixels a side."""
    rows, columns = (slice(part.start * cell, part.stop * cell) for part in window)
    return x_BCHW[:, :, rows, columns]


def draw_windows(*, seed: int, epoch: int, key_hash_B: Tensor, share: float) -> Tensor:
    """Draw the part of each image that is seen in this epoch: top, left, height, width.

    With probability `share` it is a window of at least `LEAST_SIDE` of each side, else everything.

    Shape: int64 `[B] -> float32 [B,4]`. Range: shares of the image's sides, 0..1.
    """
    image_B1 = hash_u32(CROP, seed, epoch, key_hash_B)[:, None]
    draw_B5 = hash_u32(image_B1, torch.arange(5)).double() / 2**32
    side_B2 = LEAST_SIDE + (1 - LEAST_SIDE) * draw_B5[:, 1:3]
    start_B2 = draw_B5[:, 3:5] * (1 - side_B2)
    window_B4 = torch.cat([start_B2, side_B2], dim=1)
    whole_B4 = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.double).expand_as(window_B4)
    return torch.where(draw_B5[:, :1] < share, window_B4, whole_B4).float()


def is_window(window_B4: Tensor) -> Tensor:
    """Whether it is less than the whole image. Shape: `[B,4]` -> bool `[B]`."""
    return (window_B4[:, 2:] < 1).any(1)


def zoom(x_BCHW: Tensor, window_B4: Tensor) -> Tensor:
    """Enlarge a window of every image to the image's size, bilinearly; whole images stay exact.

    Shape: B C H W, `[B,4]` (`draw_windows`) -> B C H W
    """
    top_B, left_B, height_B, width_B = window_B4.unbind(1)
    zero_B = torch.zeros_like(top_B)
    # In the coordinates of `affine_grid` an image reaches from -1 to 1.
    rows = [
        torch.stack([width_B, zero_B, 2 * left_B + width_B - 1], dim=1),
        torch.stack([zero_B, height_B, 2 * top_B + height_B - 1], dim=1),
    ]
    grid_BHW2 = F.affine_grid(torch.stack(rows, dim=1), list(x_BCHW.shape), align_corners=False).to(
        x_BCHW.dtype
    )
    seen_BCHW = F.grid_sample(
        x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False
    )
    return torch.where(is_window(window_B4).view(-1, 1, 1, 1), seen_BCHW, x_BCHW)


def normalise(
    image_u8_B3HW: Tensor, *, mean: Rgb = IMAGENET_MEAN, std: Rgb = IMAGENET_STD
) -> Tensor:
    """Normalise RGB bytes with a mean and deviation of values in 0..1; keeps the memory format.

    A network's images go through `Encoder.normalise`, which knows the encoder's own.
    Shape: uint8 `[B,3,H,W] -> float32 [B,3,H,W]`. Reference: the encoders' own training.
    """
    mean_1311, std_1311 = _on_device(mean, std, image_u8_B3HW.device)
    return (image_u8_B3HW.float() / 255 - mean_1311) / std_1311


@functools.cache
def _on_device(mean: Rgb, std: Rgb, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both as tensors on a device; cached because the copy synchronises with a GPU."""
    mean_1311, std_1311 = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return mean_1311.to(device), std_1311.to(device)


def flip(x_BCHW: Tensor) -> Tensor:
    """Mirror horizontally; its own inverse."""
    return x_BCHW.flip(-1)


def flip_where(x_BCHW: Tensor, flip_B: Tensor) -> Tensor:
    """Mirror the images where `flip_B` is True; its own inverse."""
    return torch.where(flip_B.view(-1, 1, 1, 1), x_BCHW.flip(-1), x_BCHW)
