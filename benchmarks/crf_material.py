"""Images and ground truth for the benchmarks of the dense CRF: photographs, scenes or noise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = tuple[NDArray[np.uint8], NDArray[np.float32]]
"""image_HW3 in RGB, and truth_HW between 0 and 1."""


def textured(seed: int, side: int) -> Picture:
    """Noise of several scales in two colours, and the mask of the second colour's blob."""
    rng = np.random.default_rng(seed)

    def noise(sigma: float) -> NDArray[np.float32]:
        field = rng.standard_normal((side, side)).astype(np.float32)
        field = cv2.GaussianBlur(field, (0, 0), sigma)
        return np.asarray(field / field.std(), dtype=np.float32)

    inside = noise(side / 12) > 0.7
    grey = 12 * noise(side / 10) + 8 * noise(3) + 4 * noise(1)
    colours = rng.uniform(40, 215, (2, 3))
    image = np.where(inside[..., None], colours[0], colours[1]) + grey[..., None]
    return np.clip(image, 0, 255).astype(np.uint8), inside.astype(np.float32)


def pictures(
    images: Path | None, masks: Path | None, *, num_images: int, side: int
) -> tuple[str, list[Picture]]:
    """Return images and truth at their own sizes, and a description of their source.

    Without masks the brighter half of a photograph is used as truth.
    """
    if images:
        found = []
        for path in sorted(images.glob("*.jpg"))[:num_images]:
            image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            truth = image.mean(2) > image.mean()
            if masks:
                truth = cv2.imread(str(masks / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE) > 127
            found.append((image, truth.astype(np.float32)))
        return f"{len(found)} photographs", found
    try:
        from a2s.data.synthetic import draw_scene
    except ImportError as error:
        print(f"no scenes: {error}; textured noise instead")
        return "textured noise", [textured(i, side) for i in range(num_images)]
    scenes = (draw_scene(seed=0, index=i, side_px=side) for i in range(num_images))
    return "drawn scenes", [(s.image_HW3, (s.mask_HW > 127).astype(np.float32)) for s in scenes]
