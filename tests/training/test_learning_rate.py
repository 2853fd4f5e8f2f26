"""The learning rate of an epoch."""

from __future__ import annotations

import pytest

from a2s.training.learning_rate import learning_rate


def test_learning_rate_falls_after_the_milestones() -> None:
    rates = [learning_rate(epoch, lr=0.005, milestones=(15, 20)) for epoch in range(1, 26)]
    expected = [0.005] * 15 + [0.0005] * 5 + [0.00005] * 5
    assert rates == pytest.approx(expected, rel=1e-12)
