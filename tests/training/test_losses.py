from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from a2s.data.transforms import draw_keep_words
from a2s.training.losses import (
    adb_loss,
    adb_terms,
    binarise,
    consistency_loss_per_image,
    detection_loss_per_image,
    label_loss_per_image,
    map_terms,
    ssim_per_image,
)

WEIGHTS = torch.tensor([1.0, 0.1, 0.3, 0.5])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_adb_terms_follow_equation_4() -> None:
    theta, keep = torch.randn(2, 1, 3, 4), torch.rand(2, 1, 3, 4) > 0.5
    expected, kept = 0.0, 0
    for value, is_kept in zip(theta.flatten().tolist(), keep.flatten().tolist(), strict=True):
        if is_kept:
            distance = abs(1 / (1 + math.exp(-value)) - 0.5)
            expected += distance**2 + 0.1 * distance
            kept += 1
    numerator, num_kept = adb_terms(theta, keep, alpha=0.1)
    assert numerator.item() == pytest.approx(expected, rel=1e-5)
    assert num_kept.item() == kept
    assert adb_terms(theta, None, alpha=0.1).num_kept.item() == 24


@pytest.mark.parametrize(("theta", "loss"), [(0.0, 1.9), (50.0, 1.33), (-50.0, 1.33)])
def test_stage1_loss_lies_between_its_bounds(theta: float, loss: float) -> None:
    terms = [adb_terms(torch.full((2, 1, n, n), theta), None, alpha=0.1) for n in (8, 4, 2, 1)]
    found = adb_loss(*(torch.stack(column) for column in zip(*terms, strict=True)), WEIGHTS)
    assert found.item() == pytest.approx(loss, abs=1e-6)


def test_terms_of_parts_add_up_to_the_whole() -> None:
    """Sums over ranks before the division give the loss of the whole batch; means would not."""
    theta, keep = torch.randn(6, 1, 5, 5), torch.rand(6, 1, 5, 5) > 0.5
    keep[:2] = False
    whole = adb_terms(theta, keep, alpha=0.1)
    parts = [adb_terms(t, k, alpha=0.1) for t, k in zip(theta.split(2), keep.split(2), strict=True)]
    one = torch.ones(1)
    total = adb_loss(sum(p.numerator for p in parts), sum(p.num_kept for p in parts), one)
    assert total.item() == pytest.approx(adb_loss(*whole, one).item(), abs=1e-6)
    assert parts[0].num_kept == 0


def test_a_map_with_no_kept_pixel_is_finite_and_silent() -> None:
    theta = torch.randn(1, 1, 2, 2, requires_grad=True)
    terms = adb_terms(theta, torch.zeros(1, 1, 2, 2, dtype=torch.bool), alpha=0.1)
    loss = adb_loss(terms.numerator, terms.num_kept, torch.tensor([0.5]))
    loss.backward()
    assert loss.item() == 0.5
    assert theta.grad is not None
    assert not theta.grad.any()


@pytest.mark.parametrize("drop", [True, False])
def test_padding_and_dropped_pixels_do_not_count(drop: bool) -> None:
    sides = [(side, side) for side in (32, 4, 2, 1)]
    maps = [torch.randn(3, 1, side, side) for side in (8, 4, 2, 1)]
    keep = None
    if drop:
        keep = draw_keep_words(seed=0, epoch=1, key_hash_B=torch.tensor([11, 12, 0]), sides=sides)
    valid = torch.tensor([True, True, False])
    terms = map_terms(maps, valid, keep, side=32, alpha=0.1)
    keep = None if keep is None else keep[:2]
    without = map_terms([theta[:2] for theta in maps], valid[:2], keep, side=32, alpha=0.1)
    torch.testing.assert_close(terms.numerator_K, without.numerator_K)
    assert torch.equal(terms.num_kept_K, without.num_kept_K)
    assert terms.finite_B.all()
    share = float(terms.num_kept_K[0]) / (2 * 32 * 32)
    assert 0.45 < share < 0.55 if drop else share == 1


def test_an_image_with_a_map_that_is_not_finite_is_told() -> None:
    maps = [torch.randn(3, 1, side, side) for side in (8, 4, 2, 1)]
    maps[2][1, 0, 1, 0] = math.nan
    terms = map_terms(maps, torch.ones(3, dtype=torch.bool), None, side=32, alpha=0.1)
    assert terms.finite_B.tolist() == [True, False, True]
    assert terms.numerator_K.isfinite().tolist() == [True, True, False, True]


def test_l1_keeps_the_gradient_of_hard_pixels() -> None:
    gradients = []
    for alpha in (0.0, 0.1):
        theta = torch.full((1, 1, 1, 1), 1e-3, requires_grad=True)
        adb_terms(theta, None, alpha=alpha).numerator.backward()
        assert theta.grad is not None
        gradients.append(theta.grad.item())
    assert gradients[1] > 20 * gradients[0]


def test_binarise_puts_one_half_on_the_background() -> None:
    label = torch.tensor([0.0, 0.49, 0.5, 0.5001, 1.0])
    assert binarise(label).tolist() == [0, 0, 0, 1, 1]


def naive_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Window by window, for one image."""
    gauss = torch.tensor([math.exp(-(o**2) / 4.5) for o in range(-5, 6)], dtype=torch.float64)
    window = torch.outer(gauss, gauss) / gauss.sum() ** 2
    a, b = (F.pad(x.double(), (5, 5, 5, 5)) for x in (a, b))
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2
            cov = (window * p * q).sum() - mp * mq
            values.append(
                (2 * mp * mq + 1e-4)
                * (2 * cov + 9e-4)
                / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
            )
    return torch.stack(values).mean().item()


@pytest.mark.parametrize("size", [(7, 12), (1, 1), (1, 20)])
def test_ssim_equals_the_naive_way(size: tuple[int, int]) -> None:
    a, b = torch.rand(3, 1, *size), torch.rand(3, 1, *size).round()
    found = ssim_per_image(a, b)
    for i in range(3):
        assert found[i].item() == pytest.approx(naive_ssim(a[i, 0], b[i, 0]), abs=1e-5)


def test_detection_terms_of_each_image_stand_alone() -> None:
    logits, target = torch.randn(3, 1, 16, 16), (torch.rand(3, 1, 16, 16) > 0.5).float()
    whole = detection_loss_per_image(logits, target)
    for i in range(3):
        alone = detection_loss_per_image(logits[i : i + 1], target[i : i + 1])
        for a, b in zip(alone, whole, strict=True):
            torch.testing.assert_close(a[0], b[i])
    p = logits.sigmoid()
    expected = F.binary_cross_entropy(p, target)
    assert whole.bce_B.mean().item() == pytest.approx(expected.item(), abs=1e-6)
    inter = (p * target).sum((1, 2, 3))
    union = p.sum((1, 2, 3)) + target.sum((1, 2, 3)) - inter
    torch.testing.assert_close(whole.iou_B, 1 - inter / union)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_right_and_wrong_masks(value: float) -> None:
    """Masks of one value: right costs nothing (but the overlap of nothing), wrong is finite."""
    target = torch.full((1, 1, 20, 20), value)
    logits = torch.full((1, 1, 20, 20), 40.0 if value else -40.0)
    right = detection_loss_per_image(logits, target)
    wrong = detection_loss_per_image(-logits, target)
    assert right.bce_B.item() == pytest.approx(0, abs=1e-6)
    assert right.ssim_B.item() == pytest.approx(0, abs=1e-5)
    assert right.iou_B.item() == pytest.approx(0 if value else 1, abs=1e-5)
    total = torch.stack(wrong).sum()
    assert total.isfinite()
    assert total.item() > 40


def test_consistency_terms_of_each_image_stand_alone() -> None:
    """Per image: the mean of quotients, not the quotient of the batch's sums."""
    logits, target = torch.randn(3, 1, 16, 16), (torch.rand(3, 1, 16, 16) > 0.5).float()
    target[2, :, 4:] = 0
    whole = consistency_loss_per_image(logits, target)
    p = logits.sigmoid()
    for i in range(3):
        false_positive, false_negative = (
            (p[i] * (1 - target[i])).sum(),
            (target[i] - p[i] * target[i]).sum(),
        )
        both = p[i].sum() + target[i].sum()
        torch.testing.assert_close(whole.cel_B[i], (false_positive + false_negative) / both)
        torch.testing.assert_close(whole.bce_B[i], F.binary_cross_entropy(p[i], target[i]))
    batch = ((p + target) - 2 * p * target).sum() / (p + target).sum()
    assert abs(float(batch - whole.cel_B.mean())) > 1e-3


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_consistency_of_masks_of_one_value(value: float) -> None:
    target = torch.full((1, 1, 20, 20), value)
    logits = torch.full((1, 1, 20, 20), 40.0 if value else -40.0, requires_grad=True)
    right, wrong = (consistency_loss_per_image(x, target) for x in (logits, -logits))
    assert right.cel_B.item() == pytest.approx(0, abs=1e-6)
    assert wrong.cel_B.item() == pytest.approx(1, abs=1e-6)
    wrong.cel_B.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_half_precision_logits_are_scored_in_single() -> None:
    logits, target = torch.randn(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    terms = detection_loss_per_image(logits.bfloat16(), target)
    assert {t.dtype for t in terms} == {torch.float32}
    assert adb_terms(logits.bfloat16(), None, alpha=0.1).numerator.dtype == torch.float32


def test_the_loss_against_labels_is_bce_and_overlap_of_every_map() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 1, side, side) for side in (8, 4)]
    target = (torch.rand(2, 1, 16, 16) > 0.6).float()
    weight = torch.tensor([1.0, 0.25])
    found_B = label_loss_per_image(maps, target, weight)
    expected_B = torch.zeros(2)
    for theta, w in zip(maps, weight, strict=True):
        block = 16 // theta.shape[-1]
        for b in range(2):
            p = theta[b, 0].sigmoid()
            # Labels are averaged down to the map's size.
            side = theta.shape[-1]
            t = target[b, 0].view(side, block, side, block).mean((1, 3))
            bce = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
            overlap = (p * t).sum() / (p + t - p * t).sum()
            expected_B[b] += w * (bce + 1 - overlap)
    torch.testing.assert_close(found_B, expected_B)


def test_a_map_that_equals_its_label_has_no_loss() -> None:
    target = torch.zeros(1, 1, 8, 8)
    target[..., 2:6, 2:6] = 1
    perfect = [(target * 2 - 1) * 50]
    assert float(label_loss_per_image(perfect, target, torch.ones(1))) == pytest.approx(0, abs=1e-6)
    assert float(label_loss_per_image([-perfect[0]], target, torch.ones(1))) > 10
