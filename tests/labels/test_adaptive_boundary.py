"""Labels from saliency maps: their sign is known, and the boundary adapts to the image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from a2s.labels.refine import probability, sign
from a2s.models.adaptive import at_adaptive_boundary
from a2s.models.rbd import rbd_log_odds, rbd_reduced


@pytest.mark.parametrize("scale", [0.2, 0.6, 1.0])
def test_how_high_a_map_rises_does_not_matter(scale: float) -> None:
    saliency_HW = np.zeros((20, 30), np.float32)
    saliency_HW[5:12, 8:20] = np.linspace(0.5, 1, 12, dtype=np.float32)
    saliency_HW *= np.float32(scale)
    found_HW = at_adaptive_boundary(saliency_HW)
    assert found_HW.dtype == np.float32
    assert 0 <= found_HW.min() <= found_HW.max() <= 1
    np.testing.assert_array_equal(found_HW > 0.5, saliency_HW > 1.5 * saliency_HW.mean())


def test_a_map_of_noise_or_of_one_value_has_no_foreground_everywhere() -> None:
    assert not (at_adaptive_boundary(np.full((4, 5), 0.02, np.float32)) > 0.5).any()
    assert not (at_adaptive_boundary(np.zeros((4, 5), np.float32)) > 0.5).any()
    # An object that fills the image stays foreground: the boundary never exceeds 0.6.
    assert (at_adaptive_boundary(np.full((4, 5), 0.9, np.float32)) > 0.5).all()


def test_the_larger_side_may_be_foreground() -> None:
    theta_hw = np.full((8, 8), 3.0, np.float32)
    theta_hw[:2] = -3
    assert sign(theta_hw) == (-1, 0.75)
    assert sign(theta_hw, tie=None) == (1, 0.75)
    p_HW = probability(theta_hw, height=16, width=16, tie=None)
    assert p_HW[8, 8] > 0.5 > p_HW[1, 8]


def test_log_odds_of_rbd_are_its_map() -> None:
    image_HW3 = np.full((60, 80, 3), 90, np.uint8)
    cv2.circle(image_HW3, (40, 30), 14, (220, 60, 30), -1)
    odds_hw = rbd_log_odds(image_HW3)
    assert np.isfinite(odds_hw).all()
    saliency_hw = 1 / (1 + np.exp(-odds_hw.astype(np.float64)))
    np.testing.assert_allclose(saliency_hw, rbd_reduced(image_HW3), atol=2e-4)
    p_HW = probability(odds_hw, height=60, width=80, tie=None)
    assert p_HW[30, 40] > 0.5 > p_HW[3, 3]
