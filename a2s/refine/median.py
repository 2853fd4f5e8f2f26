"""Median filter of a mask."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def median(mask_HW: npt.NDArray[np.uint8], *, ksize: int = 7) -> npt.NDArray[np.uint8]:
    """Majority vote in a `ksize` x `ksize` window; the border is repeated outwards.

    Shape: H W -> H W. Range: the values of the input.
    """
    return np.asarray(cv2.medianBlur(np.array(mask_HW, order="C"), ksize), dtype=np.uint8)
