"""Soft labels in 16 bits: the codec of label generations."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# An even number of steps, so that 0, 1 and the decision value 0.5 are all exact.
U16_STEPS = 65534


def to_u16(label: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Store a label in 16 bits, off by at most 1 / 131068.

    Range: 0..1 -> 0..65534
    """
    stored: NDArray[np.uint16] = np.rint(np.clip(label, 0, 1) * np.float32(U16_STEPS)).astype(
        np.uint16
    )
    return stored


def to_u16_bits(label: Tensor) -> Tensor:
    """Do what `to_u16` does on the label's device; an int16 holds the bits.

    The host has nothing to compute then, and half as many bytes to receive.

    Range: 0..1 -> the bits of 0..65534
    """
    return (label.clamp(0, 1) * U16_STEPS).round().to(torch.int32).to(torch.int16)


def from_u16(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Read a label stored by `to_u16`.

    Range: 0..65534 -> 0..1
    """
    return stored.astype(np.float32) / np.float32(U16_STEPS)
