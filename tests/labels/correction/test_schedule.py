"""Which generation an epoch reads, under both rules."""

from __future__ import annotations

import pytest

from a2s.labels.correction.schedule import generation_after, label_schedule


def test_olr_writes_while_it_trains() -> None:
    lams, reads = label_schedule(5, rule="olr", lam=0.4, warm_epochs=2)
    assert lams == [1.0, 1.0, 0.4, 0.4, 0.4]
    assert reads == [0, 0, 0, 1, 2, 3]


def test_with_lambda_one_labels_never_change() -> None:
    assert label_schedule(3, rule="olr", lam=1.0, warm_epochs=1) == ([1.0] * 3, [0] * 4)


@pytest.mark.parametrize("warm_epochs", [0, 1, 2, 9])
def test_hma_changes_labels_where_olr_does_and_leaves_training_alone(warm_epochs: int) -> None:
    lams, reads = label_schedule(6, rule="hma", lam=0.4, warm_epochs=warm_epochs)
    assert lams == [1.0] * 6
    assert reads == label_schedule(6, rule="olr", lam=0.4, warm_epochs=warm_epochs)[1]
    assert reads == [generation_after(epoch, warm_epochs=warm_epochs) for epoch in range(7)]
