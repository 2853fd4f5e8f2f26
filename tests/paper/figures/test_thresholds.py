"""Thresholds compared with an exhaustive search, scikit-image, OpenCV and torch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from a2s.evaluation.pictures import cells
from a2s.models import boundary
from a2s.paper.figures import thresholds

MAPS = {
    "noise": np.random.default_rng(0).normal(size=(17, 23)).astype(np.float32),
    "two groups": np.random.default_rng(1).normal(np.where(np.arange(400) < 90, 3.0, 0.0), 0.4),
    "few values": np.random.default_rng(2).integers(0, 5, 300).astype(np.float32),
    "skewed": np.random.default_rng(3).exponential(size=500),
}


def variance_by_hand(values: np.ndarray, threshold: float) -> float:
    """Eqn 2, pixel by pixel."""
    above = [float(v) for v in values.ravel() if v >= threshold]
    below = [float(v) for v in values.ravel() if v < threshold]
    if not above or not below:
        return 0.0
    mu1, mu2 = sum(above) / len(above), sum(below) / len(below)
    return len(above) * len(below) / values.size**2 * (mu1 - mu2) ** 2


@pytest.mark.parametrize("name", MAPS)
def test_variance_is_equation_2(name: str) -> None:
    values = MAPS[name]
    for threshold in np.quantile(values, [0, 0.1, 0.5, 0.9, 1]):
        assert thresholds.inter_class_variance(values, threshold) == pytest.approx(
            variance_by_hand(values, threshold), rel=1e-6, abs=1e-12
        )


@pytest.mark.parametrize("name", MAPS)
def test_otsu_is_the_best_of_all_thresholds(name: str) -> None:
    values = MAPS[name]
    best = max(variance_by_hand(values, threshold) for threshold in np.unique(values))
    chosen = thresholds.otsu(values)
    assert chosen in values
    assert variance_by_hand(values, chosen) == pytest.approx(best, rel=1e-9)
    for strategy in thresholds.STRATEGIES.values():
        assert thresholds.inter_class_variance(values, strategy(values)) <= best * (1 + 1e-6)


def test_otsu_of_bytes_is_that_of_opencv_and_scikit_image() -> None:
    rng = np.random.default_rng(5)
    bytes_HW = np.where(rng.random((64, 64)) < 0.3, 170, 60) + rng.integers(-40, 40, (64, 64))
    bytes_HW = bytes_HW.astype(np.uint8)
    # Their threshold is the last value of the lower class, ours the first of the upper class.
    upper = {int(bytes_HW[bytes_HW > t].min()) for t in _others(bytes_HW)}
    assert upper == {int(thresholds.otsu(bytes_HW.astype(np.float32)))}


def _others(bytes_HW: np.ndarray) -> list[float]:
    found = [cv2.threshold(bytes_HW, 0, 255, cv2.THRESH_OTSU)[0]]
    try:
        from skimage.filters import threshold_otsu
    except ImportError:
        return found
    return [*found, float(threshold_otsu(bytes_HW))]


def test_mean_is_the_adaptive_boundary() -> None:
    map_11HW = torch.randn(1, 1, 9, 11) * 4
    values = map_11HW.numpy()
    theta = boundary.centred(map_11HW).numpy()
    assert (values >= thresholds.mean(values)).mean() == pytest.approx(
        (theta >= 0).mean(), abs=1e-6
    )


def test_median_splits_into_equal_halves() -> None:
    values = np.random.default_rng(0).permutation(101).astype(np.float32)
    assert thresholds.median(values) == 50
    assert (values >= thresholds.median(values)).sum() == 51


def test_adding_a_constant_changes_no_class() -> None:
    """So theta, the map minus its mean, can replace the map."""
    values = MAPS["skewed"]
    np.testing.assert_allclose(
        cells.normalised(values), cells.normalised(values - values.mean()), atol=1e-12
    )
    assert cells.normalised(values).min() == 0
    assert cells.normalised(values).max() == 1


def test_to_probability_is_the_sigmoid_and_does_not_overflow() -> None:
    theta = np.array([-1e4, -3.0, 0.0, 2.0, 1e4], np.float32)
    np.testing.assert_allclose(
        thresholds.to_probability(theta),
        torch.from_numpy(theta).double().sigmoid().numpy(),
        atol=1e-12,
    )


@pytest.mark.parametrize("strategy", thresholds.STRATEGIES)
def test_a_flat_map_has_variance_0(strategy: str) -> None:
    flat = np.full((4, 4), 3.0, np.float32)
    assert thresholds.STRATEGIES[strategy](flat) == 3.0
    assert thresholds.inter_class_variance(flat, 3.0) == 0
    assert (cells.normalised(flat) == 0).all()
