"""Cut-outs: the object of a saliency map alone, or on another background.

Shapes: image_HW3 uint8 RGB; alpha_HW uint8, 255 where the object covers its pixel.
"""

from __future__ import annotations

import cv2
import numpy as np

from a2s.data.arrays import U8
from a2s.evaluation.pictures.foreground import foreground_colours

_VISIBLE = 13
"""Alpha (5 %) from which on a pixel belongs to the object when its surroundings are cropped."""
_BLUR_SIDE_PX = 320
_BLUR_SIGMA_PX = 6.0
"""A blurred background is computed at this longest side, with a Gaussian of this width there."""


def alpha_of(image_HWC: U8, map_HW: U8) -> U8:
    """The map as alpha channel, where the image has transparency at most the image's own alpha.

    Shape: H W 3 or H W 4, H W -> H W.
    """
    return map_HW if image_HWC.shape[2] == 3 else np.minimum(map_HW, image_HWC[..., 3])


def cutout(image_HW3: U8, alpha_HW: U8) -> U8:
    """The object's own colours with an alpha channel; pixels with alpha 0 lose their colour too.

    Shape: H W 3, H W -> H W 4.
    """
    rgba_HW4 = np.dstack([foreground_colours(image_HW3, alpha_HW), alpha_HW])
    rgba_HW4[alpha_HW == 0] = 0
    return rgba_HW4


def on_background(rgba_HW4: U8, background_HW3: U8) -> U8:
    """Composite a cut-out over a background. Shape: H W 4, H W 3 -> H W 3."""
    return blend(rgba_HW4[..., :3], background_HW3, rgba_HW4[..., 3])


def blurred(image_HW3: U8, alpha_HW: U8) -> U8:
    """Blur what is around the object, without the object's own colours.

    Shape: H W 3, H W -> H W 3.
    """
    height, width = alpha_HW.shape
    scale = min(1.0, _BLUR_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA), np.float32)
    alpha = np.asarray(cv2.resize(alpha_HW, size, interpolation=cv2.INTER_AREA), np.float32)
    # A trace of the object, for where the Gaussian sees nothing else.
    weight = 1 - alpha / 255 + np.float32(1e-3)
    sums = cv2.GaussianBlur(small * weight[..., None], (0, 0), _BLUR_SIGMA_PX)
    means = sums / cv2.GaussianBlur(weight, (0, 0), _BLUR_SIGMA_PX)[..., None]
    levels = np.rint(np.clip(means, 0, 255)).astype(np.uint8)
    return np.asarray(cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR))


def object_box(alpha_HW: U8) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the object; the whole image if there is none."""
    is_visible_HW = alpha_HW >= _VISIBLE
    rows, columns = np.flatnonzero(is_visible_HW.any(1)), np.flatnonzero(is_visible_HW.any(0))
    if not len(rows):
        return slice(None), slice(None)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def blend(top: U8, bottom: U8, weight_HW: U8) -> U8:
    """Mix two pictures; weight 255 is the top one. Shape: H W 3, H W 3, H W -> H W 3."""
    # In strips, because a 12-megapixel picture would take half a gigabyte in floating point.
    result = np.empty_like(top)
    for first in range(0, len(top), 256):
        rows = slice(first, first + 256)
        weight = weight_HW[rows, :, None].astype(np.float32) / 255
        result[rows] = np.rint(top[rows] * weight + bottom[rows] * (1 - weight))
    return result
