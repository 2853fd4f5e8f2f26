"""What the weighted F needs of a truth, against scipy's transform of the whole image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from a2s.evaluation.weighted_f import surroundings


def truths() -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    found = []
    for share in (0.003, 0.02, 0.2, 0.7):
        for _ in range(15):
            truth = rng.random(rng.integers(1, 70, 2)) < share
            truth.flat[rng.integers(truth.size)] = True
            found.append(truth)
    return found


def large() -> NDArray[np.bool_]:
    """Distances whose squares a float32 does not round to."""
    truth = np.zeros((40, 2500), bool)
    truth[3, 7] = truth[30:33, 40:60] = True
    return truth


@pytest.mark.parametrize("truth_HW", [*truths(), large()], ids=lambda truth: str(truth.shape))
def test_distances_and_nearest_pixels_are_exact(truth_HW: NDArray[np.bool_]) -> None:
    found = surroundings(truth_HW)
    distance_HW, nearest = distance_transform_edt(~truth_HW, return_indices=True)
    expected = np.where(truth_HW, 0, 2 - np.exp(np.log(0.5) / 5 * distance_HW))
    np.testing.assert_allclose(found.weight_HW, expected, rtol=0, atol=1e-15)
    rows, columns = found.box
    width = min(columns.stop, truth_HW.shape[1]) - columns.start
    y, x = np.divmod(found.nearest_hw, width)
    # Also where several pixels are equally near.
    np.testing.assert_array_equal(y + rows.start, nearest[0][found.box])
    np.testing.assert_array_equal(x + columns.start, nearest[1][found.box])
    assert found.truth_hw.ravel()[found.object_M].all()
    assert len(found.object_M) == truth_HW.sum()
