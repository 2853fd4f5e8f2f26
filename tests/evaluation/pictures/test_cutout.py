"""Cut-outs: alpha, foreground colours, backgrounds, the box around the object."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from a2s.data.images import decode, decode_mask
from a2s.evaluation.pictures.cutout import alpha_of, blurred, cutout, object_box, on_background
from a2s.evaluation.pictures.foreground import foreground_colours


def scene(size: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A red disc with a soft edge on blue: image, alpha, and the disc's own colours."""
    y, x = np.mgrid[:size, :size] - size / 2
    share = np.clip((size * 0.3 - np.hypot(x, y)) / 6 + 0.5, 0, 1)[..., None]
    own = np.broadcast_to(np.array([220.0, 30, 30]), (size, size, 3))
    image = own * share + np.array([20.0, 20, 200]) * (1 - share)
    return np.rint(image).astype(np.uint8), np.rint(share[..., 0] * 255).astype(np.uint8), own


def test_the_background_does_not_bleed_into_the_edge() -> None:
    image, alpha, own = scene()
    soft = (alpha > 40) & (alpha < 215)
    before = np.abs(image - own)[soft].mean()
    after = np.abs(foreground_colours(image, alpha) - own)[soft].mean()
    assert before > 40
    assert after < 8


def test_opaque_pixels_keep_their_colours(shared: Path) -> None:
    data = shared / "data" / "ecssd200"
    image = decode((data / "images" / "0008.jpg").read_bytes())
    mask = decode_mask((data / "masks" / "0008.png").read_bytes())
    alpha = cv2.GaussianBlur(np.where(mask > 128, 255, 0).astype(np.uint8), (0, 0), 2)
    found = foreground_colours(image, alpha)
    np.testing.assert_array_equal(found[alpha == 255], image[alpha == 255])
    rgba = cutout(image, alpha)
    np.testing.assert_array_equal(rgba[..., 3], alpha)
    assert not rgba[alpha == 0].any()


def test_large_images_are_done_in_strips_and_alike() -> None:
    image, alpha, own = scene(1400)
    soft = (alpha > 40) & (alpha < 215)
    assert np.abs(foreground_colours(image, alpha) - own)[soft].mean() < 8


def test_alpha_is_at_most_the_image_s_own() -> None:
    map_HW = np.array([[255, 100, 0]], np.uint8)
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[..., 3] = [30, 200, 255]
    np.testing.assert_array_equal(alpha_of(rgba, map_HW), [[30, 100, 0]])
    assert alpha_of(rgba[..., :3], map_HW) is map_HW


def test_a_blurred_background_has_none_of_the_object_s_colours() -> None:
    image, alpha, _ = scene()
    behind = blurred(image, alpha)
    assert behind.shape == image.shape
    # Behind the object itself nothing is seen of it.
    assert behind[alpha < 128][:, 0].max() < 60
    whole = on_background(cutout(image, alpha), behind)
    np.testing.assert_array_equal(whole[alpha == 255], image[alpha == 255])


def test_a_cut_out_over_its_own_background_is_the_image() -> None:
    image, alpha, _ = scene()
    blue = np.broadcast_to(np.array([20, 20, 200], np.uint8), image.shape)
    whole = on_background(cutout(image, alpha), blue)
    assert np.abs(whole.astype(int) - image).mean() < 2


def test_the_box_is_around_what_can_be_seen() -> None:
    alpha = np.zeros((20, 30), np.uint8)
    assert object_box(alpha) == (slice(None), slice(None))
    alpha[3:9, 5:11] = 200
    alpha[19, 29] = 5
    assert object_box(alpha) == (slice(3, 9), slice(5, 11))


@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (40, 1)])
def test_the_smallest_images(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 100, np.uint8)
    alpha = np.full(shape, 128, np.uint8)
    rgba = cutout(image, alpha)
    assert rgba.shape == (*shape, 4)
    assert on_background(rgba, blurred(image, alpha)).shape == (*shape, 3)
