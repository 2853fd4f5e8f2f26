"""16-bit fixed-point codec of soft labels. Pure."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# An even number of steps makes 0, 0.5 (the decision threshold) and 1 exact.
U16_STEPS = 65534


def to_u16(label: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Encode a label; the rounding error is at most 1 / 131068.

    Range: 0..1 -> 0..65534
    """
    stored: NDArray[np.uint16] = np.rint(np.clip(label, 0, 1) * np.float32(U16_STEPS)).astype(
        np.uint16
    )
    return stored


def to_u16_bits(label: Tensor) -> Tensor:
    """Encode a label on its device, as `to_u16`; the int16 holds the bits of the uint16.

    This leaves no work to the host and halves the bytes to copy.

    Range: 0..1 -> the bits of 0..65534
    """
    return (label.clamp(0, 1) * U16_STEPS).round().to(torch.int32).to(torch.int16)


def from_u16(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Decode a label encoded by `to_u16`.

    Range: 0..65534 -> 0..1
    """
    return stored.astype(np.float32) / np.float32(U16_STEPS)
