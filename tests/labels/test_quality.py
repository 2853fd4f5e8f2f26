"""Quality numbers of labels: values by hand, the expected F, the flag for no object."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from a2s.labels.quality import (
    THUMBNAIL_PX,
    WEIGHTS,
    MapQuality,
    Source,
    colour_contrast,
    expected_f,
    map_quality,
    thumbnail,
)
from a2s.storage.status import quality as distribution

CERTAIN = {"decision_margin": 0.45, "sign_margin": 0.4}
PERFECT = MapQuality(overlap=1.0, inside=1.0, peak=1.0)


def square(side: int, *, first: int, last: int) -> np.ndarray:
    mask_HW = np.zeros((side, side), dtype=bool)
    mask_HW[first:last, first:last] = True
    return mask_HW


def test_a_label_on_its_map_by_hand() -> None:
    probability_hw = np.array([[1.0, 0.5], [0.0, 0.0]], dtype=np.float32)
    mask_HW = np.array([[True, False], [True, False]])
    found = map_quality(probability_hw, mask_HW)
    # Minimum 1 + 0 + 0 + 0, maximum 1 + .5 + 1 + 0; inside (1 + 0) / 2.
    assert found.overlap == pytest.approx(1 / 2.5)
    assert found.inside == pytest.approx(0.5)
    assert 0.9 < found.peak <= 1


def test_a_label_is_compared_at_the_size_of_a_small_map() -> None:
    coarse_hw = square(8, first=2, last=6).astype(np.float32)
    found = map_quality(coarse_hw, square(320, first=80, last=240))
    assert (found.overlap, found.inside, found.peak) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("mask", ["empty", "full"])
def test_labels_without_an_inside_or_an_outside(mask: str) -> None:
    mask_HW = np.full((40, 50), mask == "full")
    image_HW3 = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    assert colour_contrast(thumbnail(image_HW3), mask_HW) == 0
    on_map = map_quality(np.zeros((5, 5), np.float32), mask_HW)
    assert (on_map.overlap, on_map.inside, on_map.peak) == (0, 0, 0)


def test_colours_that_do_not_occur_outside_contrast_fully() -> None:
    mask_HW = square(THUMBNAIL_PX, first=30, last=60)
    image_HW3 = np.where(mask_HW[:, :, None], [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    assert colour_contrast(image_HW3, mask_HW) == 1
    assert colour_contrast(np.full_like(image_HW3, 90), mask_HW) == 0
    # Far from the label its colour may occur.
    image_HW3[:5] = [255, 0, 0]
    assert colour_contrast(image_HW3, mask_HW) == 1


@pytest.mark.parametrize("source", get_args(Source))
def test_expected_f_rises_with_what_speaks_for_a_label_and_stays_in_range(source: Source) -> None:
    def expected(on_map: MapQuality = PERFECT, **changed: float) -> float:
        numbers = {"colour_contrast": 0.8, "border_contact": 0.0, "area_share": 0.1, **CERTAIN}
        numbers |= changed
        parts = int(numbers.pop("parts", 1))
        return expected_f(on_map, weights=WEIGHTS[source], num_components=parts, **numbers)

    best = expected()
    assert best > expected(MapQuality(0.4, 0.6, 1.0))
    assert best > expected(colour_contrast=0.1)
    assert best > expected(border_contact=0.2) >= 0
    assert best > expected(parts=9)
    assert expected(area_share=0) == 0
    assert expected(colour_contrast=1, area_share=1) == 1
    assert 0 <= expected(MapQuality(0, 0, 0), border_contact=1, colour_contrast=0, parts=500) < 0.1


def test_quantiles_come_from_counts_in_bins() -> None:
    values = np.linspace(0, 1, 2001)
    counts = distribution.count(values.tolist())
    assert sum(counts) == 2001
    for share in (0.1, 0.5, 0.9):
        assert distribution.quantile(counts, share) == pytest.approx(share, abs=0.01)
    halves = distribution.add([distribution.count([0.2]), distribution.count([1.0, 0.0])])
    assert (sum(halves), halves[0], halves[-1]) == (3, 1, 1)
    assert "half" in distribution.describe(counts, num_no_object=3)
