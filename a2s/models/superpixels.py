"""SLIC superpixels of an image and their adjacency graph.

Shape suffixes: H W the image's size, N superpixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.segmentation import slic

from a2s.data.arrays import F64, U8, Bool

MAX_SIDE_PX = 400
"""Longest side of the working size, for which the constants were chosen."""
AREA_PX = 600
"""Area of a superpixel at that size: an image of 400 x 300 has 200 superpixels."""
MIN_AREA_PX = 16
"""Smallest area of a superpixel; in smaller images it shrinks with the longest side."""
COMPACTNESS = 20.0
"""Colour distance in Lab units that counts as much as the width of a superpixel."""


@dataclass(frozen=True, eq=False)
class Superpixels:
    """Superpixels with mean colour (CIE Lab) and centre (in fractions of height and width).

    Shape: label [H, W], lab [N, 3], centre [N, 2], on_border [N], adjacent [N, N]
    """

    label_HW: NDArray[np.intp]
    lab_N3: F64
    centre_N2: F64
    on_border_N: Bool
    adjacent_NN: Bool

    def paint(self, value_N: F64) -> NDArray[np.float32]:
        """Assign every pixel the value of its superpixel.

        Shape: [N] -> [H, W]
        """
        return value_N.astype(np.float32)[self.label_HW]


def area_for(height: int, width: int) -> float:
    """Area in pixels of a superpixel in an image of this size."""
    return max(MIN_AREA_PX, AREA_PX * min(1.0, max(height, width) / MAX_SIDE_PX) ** 2)


def segment(image_HW3: U8, *, area_px: float) -> Superpixels:
    """Segment an image into superpixels of similar size and colour, deterministically.

    Shape: [H, W, 3], N >= 1
    Reference: Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods",
        PAMI 2012
    """
    height, width = image_HW3.shape[:2]
    lab_HW3 = rgb2lab(image_HW3.astype(np.float32) / 255)
    # slic first stretches its input to 0..1; without this division every result is a plain grid.
    label_HW = slic(
        lab_HW3,
        n_segments=max(1, round(height * width / area_px)),
        compactness=COMPACTNESS / max(float(np.ptp(lab_HW3)), 1.0),
        min_size_factor=0.25,
        convert2lab=False,
        start_label=0,
    )
    return describe(label_HW, lab_HW3, border_px=max(1, round(math.sqrt(area_px) / 3)))


def describe(
    label_HW: NDArray[np.intp], lab_HW3: NDArray[np.floating], *, border_px: int
) -> Superpixels:
    """Measure superpixels; those within `border_px` pixels of the border are on the border.

    Shape: [H, W], [H, W, 3]
    """
    height, width = label_HW.shape
    used = np.bincount(label_HW.ravel()) > 0
    label_HW = (np.cumsum(used) - 1)[label_HW]
    num = int(used.sum())
    size_N = np.bincount(label_HW.ravel(), minlength=num)

    def mean_N(value_HW: NDArray[np.floating]) -> F64:
        return np.bincount(label_HW.ravel(), value_HW.ravel(), minlength=num) / size_N

    rows_HW, columns_HW = np.mgrid[:height, :width] + 0.5
    centre_N2 = np.stack([mean_N(rows_HW / height), mean_N(columns_HW / width)], axis=1)
    lab_N3 = np.stack([mean_N(lab_HW3[..., channel]) for channel in range(3)], axis=1)

    on_border_N = np.zeros(num, dtype=np.bool_)
    for band in (slice(border_px), slice(-border_px, None)):
        on_border_N[label_HW[band]] = True
        on_border_N[label_HW[:, band]] = True
    adjacent_NN = np.zeros((num, num), dtype=np.bool_)
    adjacent_NN[label_HW[1:], label_HW[:-1]] = True
    adjacent_NN[label_HW[:, 1:], label_HW[:, :-1]] = True
    adjacent_NN |= adjacent_NN.T
    np.fill_diagonal(adjacent_NN, False)
    return Superpixels(label_HW, lab_N3, centre_N2, on_border_N, adjacent_NN)
