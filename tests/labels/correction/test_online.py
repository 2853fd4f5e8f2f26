from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a2s.labels.correction.online import rectify
from a2s.labels.correction.schedule import lambda_at
from a2s.labels.store.fixed_point import U16_STEPS, from_u16, to_u16, to_u16_bits


def test_lambda_schedule_of_the_paper() -> None:
    found = [lambda_at(epoch, lam=0.4, warm_epochs=2) for epoch in range(1, 6)]
    assert found == [1.0, 1.0, 0.4, 0.4, 0.4]
    assert lambda_at(1, lam=0.4, warm_epochs=0) == 0.4


def test_epochs_start_at_one() -> None:
    with pytest.raises(AssertionError, match="counted from 1"):
        lambda_at(0, lam=0.4, warm_epochs=2)


def test_lambda_one_does_not_change_labels() -> None:
    label, probability = torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    assert torch.equal(rectify(label, probability, 1.0), label)


@pytest.mark.parametrize(
    ("probability", "updates"), [(0.16, 1), (0.17, 2), (0.2, 2), (0.3, 2), (0.45, 3)]
)
def test_number_of_updates_until_a_label_flips(probability: float, updates: int) -> None:
    label, taken = torch.ones(1), 0
    while label.item() >= 0.5:
        label, taken = rectify(label, torch.tensor([probability]), 0.4), taken + 1
    assert taken == updates


@given(st.floats(0, 1, width=32))
def test_fixed_point_round_trip(value: float) -> None:
    label = np.array([value], np.float32)
    stored = to_u16(label)
    assert stored.dtype == np.uint16
    back = from_u16(stored)
    assert back.dtype == np.float32
    assert abs(float(back[0]) - value) <= 0.5 / U16_STEPS + 1e-7
    assert np.array_equal(to_u16(back), stored)


def test_0_and_half_and_1_are_exact() -> None:
    label = np.array([0, 0.5, 1], np.float32)
    assert np.array_equal(from_u16(to_u16(label)), label)
    assert to_u16(np.array([-0.1, 1.1], np.float32)).tolist() == [0, U16_STEPS]


def test_tensors_and_arrays_are_encoded_equally() -> None:
    label = torch.cat([torch.rand(5000), torch.tensor([0, 0.5, 1.0]), torch.arange(0, 1, 1e-4)])
    bits = to_u16_bits(label)
    assert bits.dtype == torch.int16
    assert (bits.numpy().view(np.uint16) == to_u16(label.numpy())).all()
