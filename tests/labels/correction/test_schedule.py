"""Which generation an epoch reads, under both rules."""

from __future__ import annotations

import pytest

from a2s.labels.correction.schedule import LabelSchedule, generation_after


def test_olr_writes_a_generation_per_epoch() -> None:
    schedule = LabelSchedule.of(5, rule="olr", lam=0.4, warm_epochs=2)
    assert schedule.lam_by_epoch == (1.0, 1.0, 0.4, 0.4, 0.4)
    assert schedule.generation_by_epoch == (0, 0, 0, 1, 2, 3)


def test_with_lambda_one_labels_never_change() -> None:
    schedule = LabelSchedule.of(3, rule="olr", lam=1.0, warm_epochs=1)
    assert schedule.lam_by_epoch == (1.0, 1.0, 1.0)
    assert schedule.generation_by_epoch == (0, 0, 0, 0)


@pytest.mark.parametrize("warm_epochs", [0, 1, 2, 9])
def test_hma_updates_labels_between_the_same_epochs_as_olr(warm_epochs: int) -> None:
    hma, olr = (
        LabelSchedule.of(6, rule=rule, lam=0.4, warm_epochs=warm_epochs) for rule in ("hma", "olr")
    )
    assert hma.lam_by_epoch == (1.0,) * 6
    assert hma.generation_by_epoch == olr.generation_by_epoch
    assert list(hma.generation_by_epoch) == [
        generation_after(epoch, warm_epochs=warm_epochs) for epoch in range(7)
    ]


def test_hma_trains_while_labels_exist() -> None:
    schedule = LabelSchedule.of(6, rule="hma", lam=0.4, warm_epochs=2)
    fresh = {"epoch": 0, "generation": 0}
    # Epochs 1 to 3 read generation 0; epoch 4 reads what is made after epoch 3.
    assert schedule.last_epoch(fresh, at_most=6) == 3
    assert schedule.last_epoch(fresh, at_most=2) == 2
    assert schedule.lacks_labels({"epoch": 3, "generation": 0})
    assert schedule.last_epoch({"epoch": 3, "generation": 1}, at_most=6) == 4
    assert schedule.lacks_labels({"epoch": 6, "generation": 3})
    assert not schedule.lacks_labels({"epoch": 6, "generation": 4})


def test_olr_never_waits_for_labels() -> None:
    schedule = LabelSchedule.of(6, rule="olr", lam=0.4, warm_epochs=2)
    assert schedule.last_epoch({"epoch": 0, "generation": 0}, at_most=6) == 6
    for epoch, generation in enumerate(schedule.generation_by_epoch):
        assert not schedule.lacks_labels({"epoch": epoch, "generation": generation})
