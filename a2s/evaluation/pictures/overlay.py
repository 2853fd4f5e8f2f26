"""Overlay of a saliency map on its image."""

from __future__ import annotations

import cv2
import numpy as np

from a2s.data.arrays import U8
from a2s.evaluation.pictures.cutout import blend

CONTOUR_RGB = (255, 176, 32)
BACKGROUND_RGB = (24, 34, 58)
BACKGROUND_KEPT = 0.38
"""Factor of the grey background, to which the tint is added."""


def overlay(image_HW3: U8, map_HW: U8) -> U8:
    """Dim the background in proportion to the map, and draw the contour at half of its range.

    Shape: [H, W, 3], [H, W] -> [H, W, 3]
    """
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    dimmed_HW3 = np.stack(
        [cv2.addWeighted(grey_HW, BACKGROUND_KEPT, grey_HW, 0, tint) for tint in BACKGROUND_RGB],
        axis=-1,
    ).astype(np.uint8, copy=False)
    picture_HW3 = blend(image_HW3, dimmed_HW3, map_HW)
    contours, _ = cv2.findContours(
        (map_HW > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    width_px = max(1, round(max(map_HW.shape) / 320))
    cv2.drawContours(picture_HW3, contours, -1, CONTOUR_RGB, width_px, cv2.LINE_AA)
    return picture_HW3
