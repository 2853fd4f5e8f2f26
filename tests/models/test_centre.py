"""The Gaussian in the middle: shape, symmetry, and its scores on photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from a2s.models.centre import SIGMA, centre


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (8, 1), (37, 52), (300, 400)])
def test_it_is_symmetric_and_brightest_in_the_middle(height: int, width: int) -> None:
    map_HW = centre(height, width)
    assert map_HW.shape == (height, width)
    assert map_HW.dtype == np.uint8
    np.testing.assert_array_equal(map_HW, map_HW[::-1])
    np.testing.assert_array_equal(map_HW, map_HW[:, ::-1])
    assert map_HW[height // 2, width // 2] == map_HW.max() > 240


def test_sigma_is_a_fraction_of_each_side() -> None:
    map_HW = centre(400, 800).astype(float)
    middle = map_HW[200, 400]
    one_sigma = np.exp(-0.5) * middle
    assert map_HW[200 + round(SIGMA * 400), 400] == pytest.approx(one_sigma, abs=2)
    assert map_HW[200, 400 + round(SIGMA * 800)] == pytest.approx(one_sigma, abs=2)


def test_its_scores_on_photographs(shared: Path) -> None:
    from a2s.data.images import decode_mask
    from a2s.evaluation.dataset_scores import DatasetScores
    from a2s.evaluation.metrics import score

    totals = DatasetScores()
    for file in sorted((shared / "data" / "ecssd200" / "masks").glob("*.png")):
        truth_HW = decode_mask(file.read_bytes()) > 128
        totals.add(score(centre(*truth_HW.shape), truth_HW))
    found = totals.summary()
    assert totals.num_images == 200
    assert found["adaptive_f"] == pytest.approx(0.542, abs=5e-4)
    assert found["mae"] == pytest.approx(0.279, abs=5e-4)
