"""Random draws that belong to a sample, and the few tensor operations around them.

A flip or a dropped pixel is an integer hash of (seed, epoch, key, map, pixel): the same on any
rank, in any order, on CPU and GPU. Every product stays below 2**63, so int64 arithmetic is exact.
B images, C channels, H rows, W columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
# Different draws from the same (seed, epoch, key) must not be correlated.
FLIP, KEEP = 1, 2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _mix(word: Tensor) -> Tensor:
    """Bijective 32-bit finaliser; both multipliers are below 2**31."""
    word = word ^ (word >> 16)
    word = (word * 0x21F0AAAD) & MASK
    word = word ^ (word >> 15)
    word = (word * 0x735A2D97) & MASK
    return word ^ (word >> 15)


def hash_u32(*parts: int | Tensor) -> Tensor:
    """Hash integers (each up to 63 bits) or broadcastable int64 tensors of them.

    Shape: the broadcast shape of the tensors among `parts`. Range: [0, 2**32) as int64.
    """
    device = next((part.device for part in parts if isinstance(part, Tensor)), None)
    state = torch.zeros((), dtype=torch.int64, device=device)
    for part in parts:
        value = torch.as_tensor(part, dtype=torch.int64, device=device)
        for word in (value & MASK, value >> 32 & MASK):
            state = _mix(state ^ _mix((word + GOLDEN) & MASK))
    return state


def draw_flip(*, seed: int, epoch: int, key_hash_B: Tensor) -> Tensor:
    """Whether each image is mirrored in this epoch, with probability one half.

    Shape: int64 `[B] -> bool [B]`. Reference: Sec. IV-A (horizontal flip only).
    """
    return (hash_u32(FLIP, seed, epoch, key_hash_B) & 1).bool()


def draw_keep(
    *, seed: int, epoch: int, key_hash_B: Tensor, map_index: int, height: int, width: int
) -> Tensor:
    """Which pixels of a map take part in the loss: each with probability one half.

    One hash decides 32 neighbouring pixels, a bit each.
    Shape: int64 `[B] -> bool [B,1,height,width]`, on the device of `key_hash_B`.
    Reference: Sec. III-A (half of the pixels are dropped at each iteration).
    """
    device = key_hash_B.device
    num_words = -(-height * width // 32)
    image_B1 = hash_u32(KEEP, seed, epoch, key_hash_B, map_index)[:, None]
    word_BN = hash_u32(image_B1, torch.arange(num_words, device=device))
    bit_BN32 = word_BN[:, :, None] >> torch.arange(32, device=device) & 1
    pixels_BP = bit_BN32.flatten(1)[:, : height * width]
    return pixels_BP.bool().view(-1, 1, height, width)


def normalise(image_u8_B3HW: Tensor) -> Tensor:
    """RGB bytes to what ImageNet encoders expect; keeps the memory format.

    Shape: uint8 `[B,3,H,W] -> float32 [B,3,H,W]`. Reference: the encoders' own training.
    """
    mean = torch.tensor(IMAGENET_MEAN, device=image_u8_B3HW.device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=image_u8_B3HW.device).view(1, 3, 1, 1)
    return (image_u8_B3HW.float() / 255 - mean) / std


def flip(x_BCHW: Tensor) -> Tensor:
    """Mirror left and right; its own inverse."""
    return x_BCHW.flip(-1)


def flip_where(x_BCHW: Tensor, flip_B: Tensor) -> Tensor:
    """Mirror the images that `flip_B` names; its own inverse."""
    return torch.where(flip_B.view(-1, 1, 1, 1), x_BCHW.flip(-1), x_BCHW)
