"""A mask cut into objects: the whole of it, or its connected components. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """Foreground pixels of one object, cut out of its image.

    Shape: inside_hw is the smallest box around the object, bool. `x` and `y` are its left and upper
    pixel, `height` and `width` the size of the image.
    """

    x: int
    y: int
    inside_hw: Bool
    height: int
    width: int

    @property
    def area(self) -> int:
        """Number of foreground pixels."""
        return int(np.count_nonzero(self.inside_hw))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels."""
        height, width = self.inside_hw.shape
        return self.x, self.y, width, height


def regions(mask_HW: Bool, *, instances: bool) -> list[Region]:
    """The objects of a mask; none for an empty mask.

    With `instances` every 8-connected component is an object, in the order of their first pixels;
    otherwise all foreground is one.
    """
    if not instances:
        return [_cut(mask_HW, 0, 0, mask_HW.shape)] if mask_HW.any() else []
    _, component_HW, boxes, _ = cv2.connectedComponentsWithStats(
        mask_HW.astype(np.uint8), connectivity=8
    )
    found = []
    for number, (x, y, width, height, _) in enumerate(boxes.tolist()[1:], start=1):
        inside_hw = component_HW[y : y + height, x : x + width] == number
        found.append(_cut(inside_hw, x, y, mask_HW.shape))
    # OpenCV's numbers follow its algorithm.
    return sorted(found, key=_first_pixel)


def _first_pixel(region: Region) -> tuple[int, int]:
    return region.y, region.x + int(np.argmax(region.inside_hw[0]))


def _cut(mask_hw: Bool, x: int, y: int, size: tuple[int, ...]) -> Region:
    rows, columns = np.flatnonzero(mask_hw.any(1)), np.flatnonzero(mask_hw.any(0))
    top, left = int(rows[0]), int(columns[0])
    inside_hw = mask_hw[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    return Region(x + left, y + top, inside_hw, height=size[0], width=size[1])
