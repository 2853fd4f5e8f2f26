"""Refinement compared with the authors' masks, and on tiny images."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from a2s.errors import ConfigError
from a2s.labels.crf.backends import crf_of
from a2s.labels.crf.energy import CrfParams, energy_of, hard_energy, soft_energy, stretch
from a2s.labels.crf.pydensecrf_backend import crf
from a2s.labels.quality import agreement, border_contact, num_components
from a2s.labels.refine import Recipe, median_filter, probability, refine, sign, working_size
from a2s.models import boundary
from a2s.models.blocks import upsample

PARAMS = CrfParams()
SIZES = [(1, 1), (1, 40), (40, 1), (2, 2), (3, 5), (1, 900)]


def recipe(mode: str = "hard", **settings: int) -> Recipe:
    return Recipe(energy=energy_of(mode), crf=crf_of("pydensecrf"), params=PARAMS, **settings)


def blob(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on noise, and a map that is high near it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    inside = (y - height / 2) ** 2 + (x - width / 3) ** 2 < (min(height, width) / 4) ** 2
    noise = rng.integers(0, 40, (height, width, 3))
    image = (noise + np.where(inside, 200, 20)[..., None]).astype(np.uint8)
    theta = np.where(inside[::2, ::2], 3.0, -1.0).astype(np.float32)
    return image, theta


@pytest.mark.parametrize("number", range(7))
def test_crf_and_median_equal_the_authors_masks(shared: Path, number: int) -> None:
    oracle = load_file(shared / "oracles" / "a2s_reference.safetensors")
    image, p, expected, filtered = (
        oracle[f"refine.{number}.{name}"] for name in ("image", "prob", "crf", "median")
    )
    mask = crf(image, hard_energy(p, PARAMS), PARAMS)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(median_filter(mask.astype(np.uint8)), filtered)


def test_a_backend_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    monkeypatch.delitem(sys.modules, "a2s.labels.crf.pydensecrf_backend")
    with pytest.raises(ConfigError, match=r"refine\.backend pydensecrf.*'a2s\[pydensecrf\]'"):
        crf_of("pydensecrf")


def test_unary_energy_equals_the_librarys() -> None:
    from pydensecrf.utils import unary_from_labels, unary_from_softmax

    p = np.random.default_rng(0).random((9, 11)).astype(np.float32)
    labels = (stretch(p) > 0.5).astype(np.int64)
    expected = unary_from_labels(labels, 2, gt_prob=0.7, zero_unsure=False)
    np.testing.assert_array_equal(hard_energy(p, PARAMS), expected)
    softmax = np.stack([1 - p, p])
    np.testing.assert_allclose(soft_energy(p, PARAMS), unary_from_softmax(softmax), rtol=1e-6)


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("theta_kind", ["flat", "noise", "huge"])
def test_tiny_images_and_flat_maps(size: tuple[int, int], theta_kind: str, mode: str) -> None:
    rng = np.random.default_rng(1)
    theta = {
        "flat": np.zeros((8, 8), np.float32),
        "noise": rng.normal(size=(8, 8)).astype(np.float16),
        "huge": (1e6 * rng.normal(size=(8, 8))).astype(np.float32),
    }[theta_kind]
    for image in (
        np.zeros((*size, 3), np.uint8),
        rng.integers(0, 256, (*size, 3)).astype(np.uint8),
    ):
        image.setflags(write=False)
        theta.setflags(write=False)
        refined = refine(image, theta, recipe=recipe(mode))
        assert refined.mask_HW.shape == size
        assert refined.mask_HW.dtype == np.uint8
        assert set(np.unique(refined.mask_HW)) <= {0, 255}
        if theta_kind == "flat" and mode == "hard":
            assert refined.quality.area_share == 0
            assert refined.quality.crf_agreement == 1
            assert refined.quality.decision_margin == 0


def test_a_clear_object_is_found_with_either_sign_of_the_map() -> None:
    image, theta = blob(60, 80)
    plain, turned = (refine(image, t, recipe=recipe()) for t in (theta, -theta))
    np.testing.assert_array_equal(plain.mask_HW, turned.mask_HW)
    assert not plain.quality.inverted
    assert turned.quality.inverted
    quality = plain.quality
    assert quality.num_components == 1
    assert quality.border_contact == 0
    assert quality.crf_agreement > 0.8
    assert quality.area_share == pytest.approx(np.pi * 15**2 / (60 * 80), rel=0.1)
    assert quality.sign_margin == pytest.approx(0.5 - (theta >= 0).mean())
    p = probability(theta, height=60, width=80)
    assert quality.decision_margin == pytest.approx(np.abs(p - 0.5).mean())


def test_soft_and_hard_input_differ() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    theta = rng.normal(-0.5, 1, (10, 10)).astype(np.float32)
    hard, soft = (refine(image, theta, recipe=recipe(m)).mask_HW for m in ("hard", "soft"))
    assert (hard != soft).any()


def test_max_side_applies_above_it_only() -> None:
    image, theta = blob(60, 80)
    own = refine(image, theta, recipe=recipe(max_side=80)).mask_HW
    np.testing.assert_array_equal(own, refine(image, theta, recipe=recipe()).mask_HW)
    reduced = refine(image, theta, recipe=recipe(max_side=40)).mask_HW
    assert reduced.shape == (60, 80)
    assert agreement(own > 0, reduced > 0) > 0.85
    assert working_size(3000, 4000, max_side=640) == (480, 640)
    assert working_size(2, 9000, max_side=640) == (1, 640)


@pytest.mark.parametrize("seed", range(4))
def test_sign_and_probability_equal_those_in_torch(seed: int) -> None:
    theta = np.random.default_rng(seed).normal(0.3 * (seed - 1.5), 1, (12, 10)).astype(np.float32)
    theta_B1hw = torch.from_numpy(theta)[None, None]
    assert sign(theta)[0] == int(boundary.sign(theta_B1hw).item())
    signed_B1hw = theta_B1hw * boundary.sign(theta_B1hw)
    expected = upsample(signed_B1hw, (30, 47)).sigmoid()[0, 0].numpy()
    np.testing.assert_allclose(probability(theta, height=30, width=47), expected, atol=1e-5)


def test_probability_marks_the_smaller_side_either_way() -> None:
    theta = np.where(np.arange(100) < 20, 2.0, -1.0).astype(np.float32).reshape(10, 10)
    p = probability(theta, height=10, width=10)
    np.testing.assert_array_equal(p, probability(-theta, height=10, width=10))
    assert (p > 0.5).sum() == 20
    np.testing.assert_allclose(p[0], 1 / (1 + np.exp(-2.0)), atol=1e-6)


def test_the_sign_is_computed_before_resizing() -> None:
    """Six of eleven pixels are above; after resizing fewer than half are below."""
    theta = np.array([[1.0] * 6 + [-9.0] * 5], np.float32)
    resized = upsample(torch.from_numpy(theta)[None, None], (1, 44))
    assert boundary.sign(resized).item() == 1
    p = probability(theta, height=1, width=44)
    assert p.shape == (1, 44)
    np.testing.assert_allclose(p, (-resized).sigmoid()[0, 0].numpy(), atol=1e-5)


def test_a_tie_of_0_leaves_every_pixel_undecided() -> None:
    theta = np.where(np.arange(100) < 50, 2.0, -1.0).astype(np.float32).reshape(10, 10)
    assert (probability(theta, height=10, width=10, tie=0) == 0.5).all()


def test_a_tie_keeps_the_sign() -> None:
    theta = np.array([[1.0, 1.0], [-1.0, -1.0]], np.float32)
    assert sign(theta) == (1, 0.5)


def test_median_is_a_majority_vote_with_replicated_border() -> None:
    mask = (np.random.default_rng(0).random((13, 17)) > 0.6).astype(np.uint8)
    padded = np.pad(mask, 3, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7))
    np.testing.assert_array_equal(median_filter(mask), windows.sum((2, 3)) > 24)
    np.testing.assert_array_equal(median_filter(mask, ksize=1), mask)


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    half=st.integers(0, 100),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_median_is_opencvs(size: tuple[int, int], half: int, share: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).random(size) < share).astype(np.uint8)
    mask.setflags(write=False)
    ours = median_filter(mask, ksize=2 * half + 1)
    np.testing.assert_array_equal(ours, cv2.medianBlur(mask.copy(), 2 * half + 1))
    assert ours.dtype == np.uint8


def test_median_of_a_window_whose_count_exceeds_16_bits() -> None:
    mask = (np.random.default_rng(0).random((20, 30)) > 0.5).astype(np.uint8)
    padded = np.pad(mask, 150, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (301, 301))
    np.testing.assert_array_equal(
        median_filter(mask, ksize=301), windows.sum((2, 3)) > 301 * 301 // 2
    )


def test_quality_numbers_by_hand() -> None:
    mask = np.zeros((4, 5), bool)
    mask[0, :2] = mask[3, 4] = True
    assert border_contact(mask) == pytest.approx(3 / 14)
    assert num_components(mask) == 2
    assert agreement(mask, np.roll(mask, 1, axis=1)) == pytest.approx(1 / 5)
    empty = np.zeros((4, 5), bool)
    assert agreement(empty, empty) == 1
    assert num_components(empty) == 0
