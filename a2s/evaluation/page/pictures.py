"""Pictures of the page, as data URIs: thumbnails, and where labels lie in the frame.

Shape suffixes: H W an image's own size, G the cells of a position map.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from a2s.data.arrays import U8

THUMBNAIL_PX = 200
POSITION_CELLS = 32
"""Cells per side of a position map."""
_JPEG_QUALITY = 82


@dataclass(frozen=True)
class Position:
    """Mean of many maps by position in the frame."""

    mean_GG: NDArray[np.float64]
    num_maps: int

    @property
    def middle(self) -> float:
        """Mean of the middle ninth of the frame. Range: 0..1."""
        third = POSITION_CELLS // 3
        return float(self.mean_GG[third:-third, third:-third].mean())

    @property
    def border(self) -> float:
        """Mean of the outermost cells. Range: 0..1."""
        ring_GG = np.ones_like(self.mean_GG, bool)
        ring_GG[1:-1, 1:-1] = False
        return float(self.mean_GG[ring_GG].mean())

    @property
    def uri(self) -> str:
        """Picture of it: dark is 0, yellow is the largest value."""
        top = max(float(self.mean_GG.max()), 1e-9)
        grey_GG = np.rint(self.mean_GG / top * 255).astype(np.uint8)
        large = cv2.resize(grey_GG, (224, 224), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        colours = np.asarray(cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS), np.uint8)
        return _uri(colours, ".png")


def position(maps_HW: Iterable[U8]) -> Position | None:
    """Average maps of any size, stretched to one frame; None without a map."""
    total_GG = np.zeros((POSITION_CELLS, POSITION_CELLS))
    num_maps = 0
    for map_HW in maps_HW:
        cells = (POSITION_CELLS, POSITION_CELLS)
        total_GG += cv2.resize(map_HW, cells, interpolation=cv2.INTER_AREA) / 255
        num_maps += 1
    return Position(total_GG / num_maps, num_maps) if num_maps else None


def photograph(image_HW3: U8) -> str:
    """Data URI of a small JPEG of a photograph. Shape: [H, W, 3], RGB."""
    return _uri(np.ascontiguousarray(_small(image_HW3)[..., ::-1]), ".jpg")


def mask(map_HW: U8) -> str:
    """Data URI of a small PNG of a map or a mask. Shape: [H, W]."""
    return _uri(_small(map_HW), ".png")


def _small(picture: U8) -> U8:
    scale = THUMBNAIL_PX / max(picture.shape[:2])
    if scale >= 1:
        return picture
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _uri(picture: NDArray[np.uint8], suffix: str) -> str:
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == ".jpg" else []
    done, encoded = cv2.imencode(suffix, picture, options)
    assert done, f"OpenCV could not encode {suffix}"
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
