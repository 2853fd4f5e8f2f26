"""The rule of the historical moving average, against plain numpy and the reference CRF."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

import numpy as np
import pytest

from a2s.errors import ConfigError
from a2s.labels.crf.backends import Backend, marginal_of
from a2s.labels.crf.energy import CrfParams, soft_energy
from a2s.paper.hma import rule

SIDE = 24


def picture(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy image with a bright square, a prediction that half knows it, and an average."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    image[6:16, 8:20] += 150
    probability = rng.uniform(0, 0.6, (SIDE, SIDE)).astype(np.float32)
    probability[5:15, 9:21] += 0.35
    average = np.zeros((SIDE, SIDE), np.float32)
    average[4:14, 6:18] = 1
    return image, probability, average


def exact_marginal(image: np.ndarray, energy: np.ndarray, params: CrfParams) -> np.ndarray:
    """Mean field of two labels with the Gaussians themselves, all pairs of pixels, no lattice."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[:height, :width].reshape(2, -1).astype(float)
    colours = image.reshape(-1, 3).astype(float)

    def kernel(*features: np.ndarray) -> np.ndarray:
        squared = sum((f[:, None] - f[None]) ** 2 for f in features)
        k = np.exp(-squared / 2)
        scale = 1 / np.sqrt(k.sum(1))
        return scale[:, None] * k * scale[None]

    near = kernel(xs / params.gaussian_sxy, ys / params.gaussian_sxy)
    like = kernel(
        xs / params.bilateral_sxy,
        ys / params.bilateral_sxy,
        *(colours[:, c] / params.bilateral_srgb for c in range(3)),
    )
    pairwise = params.gaussian_compat * near + params.bilateral_compat * like
    q = np.exp(-energy.astype(float))
    q /= q.sum(0)
    for _ in range(params.iterations):
        q = np.exp(-energy + q @ pairwise)
        q /= q.sum(0)
    return q[1].reshape(height, width)


def test_constants_are_those_of_deepusps() -> None:
    expected = dict(gaussian_sxy=3, gaussian_compat=3, bilateral_sxy=80, bilateral_srgb=13)
    assert replace(rule.CRF, bilateral_compat=10, iterations=5, **expected) == rule.CRF
    assert rule.KEPT == 0.7
    with pytest.raises(ConfigError, match="bilateral_srgb"):
        replace(rule.CRF, bilateral_srgb=0)


def test_update_is_two_crfs_around_a_weighted_sum() -> None:
    """With a stand-in for the CRF that shows what it was given."""
    image, probability, average = picture(0)
    given = []

    def marginal(image_: np.ndarray, energy: np.ndarray, params: CrfParams) -> np.ndarray:
        assert image_ is image
        assert astuple(params) == astuple(rule.CRF)
        given.append(np.exp(-energy[1]).reshape(SIDE, SIDE))
        return given[-1] ** 2

    new, label = rule.update(image, probability, average, marginal=marginal)
    assert np.allclose(given[0], np.clip(probability, 1e-5, 1), atol=1e-6)
    expected = 0.7 * average.astype(float) + 0.3 * np.clip(probability, 1e-5, 1) ** 2
    assert np.allclose(new, expected, atol=1e-6)
    assert np.allclose(given[1], np.clip(expected, 1e-5, 1), atol=1e-6)
    assert np.allclose(label, np.clip(expected, 1e-5, 1) ** 2, atol=1e-6)


def test_the_average_of_many_epochs_in_closed_form() -> None:
    rng = np.random.default_rng(3)
    start, *refined = (rng.random((5, 5)).astype(np.float32) for _ in range(9))
    average = start
    for prediction in refined:
        average = rule.averaged(average, prediction)
    weights = [0.3 * 0.7 ** (7 - epoch) for epoch in range(8)]
    expected = 0.7**8 * start + sum(w * p for w, p in zip(weights, refined, strict=True))
    assert np.allclose(average, expected, atol=1e-6)
    ones = np.ones((3, 3), np.float32)
    assert (rule.averaged(ones, ones) == 1).all(), "it stays where labels may be"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_labels_are_those_of_the_exact_mean_field(seed: int) -> None:
    image, probability, average = picture(seed)
    new, label = rule.update(image, probability, average, marginal=marginal_of("numba"))
    exact_new = 0.7 * average + 0.3 * exact_marginal(
        image, soft_energy(probability, rule.CRF), rule.CRF
    )
    exact_label = exact_marginal(
        image, soft_energy(exact_new.astype(np.float32), rule.CRF), rule.CRF
    )
    # The lattice approximates the Gaussians.
    assert np.abs(new - exact_new).mean() < 0.02
    assert ((label > 0.5) != (exact_label > 0.5)).mean() < 0.02
    assert 0.05 < (label > 0.5).mean() < 0.5


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
def test_backends_agree(backend: Backend) -> None:
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf")
    for seed in range(3):
        image, probability, average = picture(seed)
        ours = rule.update(image, probability, average, marginal=marginal_of("numba"))
        theirs = rule.update(image, probability, average, marginal=marginal_of(backend))
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == other.dtype == np.float32
            assert mine.shape == other.shape == (SIDE, SIDE)
            np.testing.assert_allclose(other, mine, atol=2e-3)


def test_certain_predictions_stay_numbers() -> None:
    image, _, average = picture(4)
    for value in (0.0, 1.0):
        certain = np.full((SIDE, SIDE), value, np.float32)
        for result in rule.update(image, certain, average, marginal=marginal_of("numba")):
            assert np.isfinite(result).all()
            assert 0 <= result.min() <= result.max() <= 1
    assert math.isclose(0.7**25, 1.3e-4, rel_tol=0.05), "what the docstring says of 25 epochs"
