from __future__ import annotations

import pytest
import torch
from torch import Tensor

from a2s.models.boundary import BOUNDARIES, decide, sign


def squares(*shares: float) -> Tensor:
    """One 10x10 map per share, with this share of pixels above the boundary."""
    maps = torch.full((len(shares), 100), -1.0)
    for row, share in zip(maps, shares, strict=True):
        row[: round(100 * share)] = 2.0
    return maps.view(-1, 1, 10, 10)


def test_boundary_follows_equation_3() -> None:
    f = torch.randn(2, 3, 4, 5)
    expected = torch.zeros(2, 1, 4, 5)
    for b in range(2):
        for c in range(3):
            expected[b, 0] += f[b, c] - f[b, c].sum() / 20
    torch.testing.assert_close(decide(f, BOUNDARIES["adb"]), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 7])
def test_flat_features_lie_on_the_boundary(side: int) -> None:
    theta = decide(torch.full((1, 4, side, side), 0.5), BOUNDARIES["adb"])
    assert torch.equal(theta.abs().max(), torch.tensor(0.0))


def test_the_smaller_side_is_foreground() -> None:
    found = sign(squares(0.2, 0.49, 0.51, 0.9))
    assert found.shape == (4, 1, 1, 1)
    assert found.flatten().tolist() == [1, 1, -1, -1]


@pytest.mark.parametrize("tie", [1, 0])
def test_ties(tie: int) -> None:
    assert sign(squares(0.5, 0.2), tie=tie).flatten().tolist() == [tie, 1]


def test_zero_counts_as_above() -> None:
    assert sign(torch.zeros(1, 1, 3, 3)).item() == -1


def naive_theta(name: str, f: Tensor, *, w: Tensor, trainset_mean: Tensor) -> Tensor:
    """Sec. IV-E literally, one pixel at a time: f^n and the means are vectors of C numbers."""
    batch, channels, height, width = f.shape
    theta = torch.zeros(batch, 1, height, width, dtype=f.dtype)
    ones = torch.ones(channels, dtype=f.dtype)
    for b in range(batch):
        mean = torch.stack([f[b, c].sum() / (height * width) for c in range(channels)])
        for y in range(height):
            for x in range(width):
                f_n = f[b, :, y, x]
                theta[b, 0, y, x] = {
                    "db1": ones @ (f_n - trainset_mean),
                    "db2": mean @ f_n,
                    "db3": mean @ (f_n - mean),
                    "db4": w @ (f_n - mean),
                    "adb": ones @ (f_n - mean),
                    "trained": w @ f_n - ones @ trainset_mean,
                }[name]
    return theta


@pytest.mark.parametrize("name", ["db1", "db2", "db3", "db4", "adb", "trained"])
def test_boundaries_follow_their_definitions(name: str) -> None:
    torch.manual_seed(0)
    f, w = torch.rand(2, 5, 3, 4, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    trainset_mean = torch.rand(5, dtype=torch.float64)
    found = decide(f, BOUNDARIES[name], learned_C=w, origin=trainset_mean.sum())
    expected = naive_theta(name, f, w=w, trainset_mean=trainset_mean)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_the_boundaries_differ() -> None:
    assert list(BOUNDARIES) == ["db1", "db2", "db3", "db4", "adb", "trained"]
    f = torch.rand(1, 3, 4, 4)
    maps = [
        decide(f, boundary, learned_C=torch.tensor([1.0, -1, 2]), origin=torch.tensor(0.2))
        for boundary in BOUNDARIES.values()
    ]
    for number, one in enumerate(maps):
        assert not any(torch.allclose(one, other) for other in maps[:number])


@pytest.mark.parametrize(("tie", "expected"), [(1, -1), (0, 1)])
def test_who_gives_a_tie_no_side_counts_the_boundary_as_below(tie: int, expected: int) -> None:
    """Three pixels of eight above, two on the boundary."""
    theta = torch.tensor([1.0, 1, 1, 0, 0, -1, -1, -1]).view(1, 1, 2, 4)
    assert sign(theta, tie=tie).item() == expected
