"""Stage 2's loss and the labels that it rectifies, in image coordinates."""

from __future__ import annotations

import pytest
import torch

from a2s.training.stage2_loss import LOSS_OF, loss_and_labels, means, micro_batches

PAPERS = LOSS_OF["ram"].per_image


def test_prediction_of_a_mirrored_image_is_turned_back() -> None:
    label = torch.zeros(2, 1, 8, 8)
    label[..., :4] = 1
    flip = torch.tensor([False, True])
    logits = torch.where(label > 0.5, 30.0, -30.0)
    logits[1] = logits[1].flip(-1)
    outcome = loss_and_labels(logits, label, flip, loss=PAPERS, lam=0.4, hard=True)
    assert torch.allclose(outcome.rectified_M1SS, label, atol=1e-6)
    assert (outcome.loss_M < 1e-2).all()
    assert torch.allclose(outcome.measured_MF[:, 3:], torch.tensor([[0.5, 0.0]] * 2))
    wrong = loss_and_labels(-logits, label, flip, loss=PAPERS, lam=0.4, hard=True)
    assert torch.allclose(wrong.rectified_M1SS, 0.4 * label + 0.6 * (1 - label), atol=1e-6)
    assert torch.allclose(wrong.measured_MF[:, 4], torch.ones(2))


def test_soft_targets_are_used_as_they_are() -> None:
    label = torch.full((1, 1, 8, 8), 0.3)
    flip = torch.tensor([False])
    logits = torch.logit(label)
    soft = loss_and_labels(logits, label, flip, loss=PAPERS, lam=0.4, hard=False)
    hard = loss_and_labels(logits, label, flip, loss=PAPERS, lam=0.4, hard=True)
    assert soft.measured_MF[0, 0] > hard.measured_MF[0, 0]
    assert soft.measured_MF[0, 1] < 1e-4 < hard.measured_MF[0, 1]


def test_of_a_window_the_loss_sees_its_part_of_the_label_and_the_label_stays() -> None:
    label = torch.zeros(2, 1, 20, 20)
    label[:, :, :, :8] = 1
    # The object is at the right of the mirrored image, of which the window shows four fifths.
    flip = torch.tensor([True, True])
    window = torch.tensor([[0.0, 0.0, 1.0, 0.8], [0.0, 0.0, 1.0, 1.0]])
    logits = torch.full((2, 1, 20, 20), -30.0)
    logits[:, :, :, 15:] = 30.0
    outcome = loss_and_labels(
        logits, label, flip, loss=PAPERS, lam=0.4, hard=True, window_M4=window
    )
    assert float(outcome.loss_M[0]) < 1e-2 < float(outcome.loss_M[1])
    assert torch.equal(outcome.rectified_M1SS[0], label[0])
    found = torch.zeros(1, 20, 20)
    found[:, :, :5] = 1
    assert torch.allclose(outcome.rectified_M1SS[1], 0.4 * label[1] + 0.6 * found, atol=1e-6)


@pytest.mark.parametrize("detector", ["ram", "minet"])
def test_the_loss_is_the_sum_of_its_parts_and_rectifies_alike(detector: str) -> None:
    loss = LOSS_OF[detector]
    logits, label = torch.randn(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    flip = torch.tensor([False, True, False])
    outcome = loss_and_labels(logits, label, flip, loss=loss.per_image, lam=0.4, hard=True)
    reference = loss_and_labels(logits, label, flip, loss=PAPERS, lam=0.4, hard=True)
    assert torch.equal(outcome.rectified_M1SS, reference.rectified_M1SS)
    parts_MP = outcome.measured_MF[:, : len(loss.parts)]
    torch.testing.assert_close(outcome.loss_M, parts_MP.sum(1))
    assert torch.equal(outcome.measured_MF[:, -2:], reference.measured_MF[:, -2:])
    named = means([outcome.measured_MF], loss)
    assert list(named) == ["loss", *loss.measured]
    assert named["loss"] == pytest.approx(float(outcome.loss_M.mean()), abs=1e-5)


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [1] * 5), ("cuda", [5])])
def test_micro_batches_cover_the_batch(device: str, sizes: list[int]) -> None:
    parts = micro_batches(5, device=torch.device(device))
    assert [len(range(5)[part]) for part in parts] == sizes
    assert [slot for part in parts for slot in range(5)[part]] == list(range(5))
