"""A stroke snaps to the edges of the photograph, and changes nothing elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from a2s.evaluation.review.snap import snap
from a2s.labels.crf.backends import marginal_of


@pytest.fixture(scope="module")
def disc() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:120, :160]
    disc_HW = (x - 80) ** 2 + (y - 60) ** 2 < 35**2
    noise = np.random.default_rng(0).integers(0, 25, (120, 160, 3))
    image_HW3 = np.where(disc_HW[..., None], (200, 50, 40), (40, 70, 190)) + noise
    return image_HW3.astype(np.uint8), disc_HW


def test_a_stroke_inside_grows_to_the_edge_and_not_over_it(disc) -> None:
    image_HW3, disc_HW = disc
    stroke_HW = np.zeros_like(disc_HW)
    stroke_HW[35:85, 60:102] = True
    stroke_HW &= disc_HW
    found_HW = snap(image_HW3, np.zeros_like(disc_HW), stroke_HW, marginal_of("numba"))
    wrong_HW = found_HW & ~disc_HW
    assert found_HW.sum() > stroke_HW.sum()
    assert wrong_HW.sum() < 0.02 * disc_HW.sum()
    assert (found_HW & disc_HW).sum() > 0.85 * disc_HW.sum()


def test_a_stroke_over_the_edge_falls_back_to_it(disc) -> None:
    image_HW3, disc_HW = disc
    stroke_HW = np.zeros_like(disc_HW)
    stroke_HW[40:80, 50:125] = True
    over = int((stroke_HW & ~disc_HW).sum())
    found_HW = snap(image_HW3, np.zeros_like(disc_HW), stroke_HW, marginal_of("numba"))
    assert (found_HW & ~disc_HW).sum() < 0.2 * over
    assert found_HW[60, 80]


def test_the_eraser_keeps_what_it_does_not_touch(disc) -> None:
    image_HW3, disc_HW = disc
    mask_HW = disc_HW.copy()
    mask_HW[80:115, 5:35] = True
    stroke_HW = np.zeros_like(disc_HW)
    stroke_HW[82:113, 8:32] = True
    found_HW = snap(image_HW3, mask_HW, stroke_HW, marginal_of("numba"), adds=False)
    assert found_HW[80:115, 5:35].mean() < 0.1
    assert (found_HW[disc_HW]).all()
    assert not (found_HW & ~mask_HW).any()


def test_far_pixels_stay_and_no_stroke_changes_nothing(disc) -> None:
    image_HW3, disc_HW = disc
    mask_HW = np.zeros_like(disc_HW)
    mask_HW[::2, ::2] = True
    none_HW = np.zeros_like(disc_HW)
    assert (snap(image_HW3, mask_HW, none_HW, marginal_of("numba")) == mask_HW).all()
    stroke_HW = none_HW.copy()
    stroke_HW[0:6, 0:6] = True
    found_HW = snap(image_HW3, mask_HW, stroke_HW, marginal_of("numba"))
    assert (found_HW[20:, 20:] == mask_HW[20:, 20:]).all()
    assert (found_HW | ~mask_HW).all()
