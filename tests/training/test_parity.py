"""Twenty steps of both stages, beside the same twenty steps written plainly (`plain.py`).

Weights and features are those with which the authors' functions were recorded; settings are those
of `configs/official.yaml`. An epoch is one step, so that every rate of the schedule is met.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import plain
import pytest
import torch
from authors import STAGE1_MODULES, STAGE2_MODULES, load, renamed
from repository import REPO
from safetensors.torch import load_file
from torch import Tensor, nn

from a2s.config.parse import parse
from a2s.data.transforms import draw_flip, draw_keep_words, flip_where, unpack_keep
from a2s.labels.correction.schedule import lambda_at
from a2s.models.detector import DetectorDecoder
from a2s.models.heads import ActivationBlocks
from a2s.training.learning_rate import learning_rate
from a2s.training.losses import adb_loss, map_terms
from a2s.training.optimizer import GuardedSGD
from a2s.training.stage2_loss import LOSS_OF, loss_and_labels

NUM_STEPS, NUM_BATCHES, SIDE, TOLERANCE = 20, 10, 64, 1e-4
SIDES = [(side, side) for side in (64, 8, 4, 2)]
OFFICIAL = ["--config", str(REPO / "configs" / "official.yaml"), "--data", "d", "--out", "o"]

Oracle = dict[str, Tensor]


@pytest.fixture(scope="module")
def oracle(shared: Path) -> Oracle:
    return load_file(shared / "oracles" / "a2s_reference.safetensors")


def noise(oracle: Oracle, batch: int) -> list[Tensor]:
    """What makes the features of another batch of the recorded ones; nothing for the first."""
    random = torch.Generator().manual_seed(batch)
    taps = [oracle[f"E{i}"] for i in range(1, 6)]
    return [tap.std() * torch.randn(tap.shape, generator=random) * (batch > 0) for tap in taps]


def recorded_label(oracle: Oracle, batch: int) -> Tensor:
    """The recorded labels, moved on a little from batch to batch."""
    return oracle["stage2.label"].roll((5 * batch, 9 * batch), dims=(2, 3))


def off_by(ours: Tensor | float, theirs: Tensor | float) -> float:
    """Largest difference, as a share of the largest entry."""
    a, b = torch.as_tensor(ours).detach().double(), torch.as_tensor(theirs).detach().double()
    return float((a - b).abs().max() / b.abs().max())


def weights_off_by(module: nn.Module, names: dict[str, str], theirs: plain.Weights) -> float:
    ours = renamed(module.state_dict(), names, prefix="")
    assert ours.keys() == theirs.keys()
    return max(off_by(tensor, theirs[name]) for name, tensor in ours.items())


def their_weights(oracle: Oracle, names: dict[str, str]) -> plain.Weights:
    wanted = {f"{name}.{part}" for name in names.values() for part in ("weight", "bias")}
    return {
        key.split(".decoder.")[1]: tensor.clone().requires_grad_()
        for key, tensor in oracle.items()
        if key in wanted
    }


def packed(keeps: list[Tensor]) -> Tensor:
    """Masks as the words in which a2s draws them."""
    words = []
    for keep in keeps:
        bits = keep.flatten(1).long()
        bits = torch.nn.functional.pad(bits, (0, -bits.shape[1] % 32)).view(len(bits), -1, 32)
        words.append((bits << torch.arange(32)).sum(2))
    return torch.cat(words, dim=1).to(torch.int32)


def kept_words(oracle: Oracle, step: int) -> Tensor:
    """Kept pixels as recorded, later as a2s draws them."""
    if step == 1:
        return packed([oracle[f"stage1.keep.{name}"] for name in ("F", "F3", "F4", "F5")])
    hash_B = torch.tensor([11, 12])
    return draw_keep_words(seed=0, epoch=step, key_hash_B=hash_B, sides=SIDES)


def features(oracle: Oracle, step: int) -> list[Tensor]:
    """E1..E5 of the batch whose turn it is."""
    return [
        oracle[f"E{i}"] + change
        for i, change in enumerate(noise(oracle, (step - 1) % NUM_BATCHES), start=1)
    ]


def stage1_steps(oracle: Oracle, **changed: object) -> Iterator[tuple[float, Tensor, nn.Module]]:
    """Rate, loss and network of every step, by the pieces of which `a2s stage1` consists."""
    config = parse("stage1", OFFICIAL).model_copy(update=changed)
    scale_C = oracle["fc.weight"].sum(0)
    blocks = ActivationBlocks((12, 16, 20), fusion_stride=config.fusion_stride, e5_scale_C=scale_C)
    load(blocks, oracle, STAGE1_MODULES, e5_scale_C=scale_C)
    optimizer = GuardedSGD(
        [{"params": list(blocks.parameters())}],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    weight_K = torch.tensor(config.map_weights, dtype=torch.float64)
    for step in range(1, NUM_STEPS + 1):
        lr = learning_rate(step, lr=config.lr, milestones=config.milestones)
        for group in optimizer.param_groups:
            group["lr"] = lr
        maps = blocks(*features(oracle, step)[2:], size=(SIDE, SIDE))
        valid_B, keep_BW = torch.ones(2, dtype=torch.bool), kept_words(oracle, step)
        terms = map_terms(maps, valid_B, keep_BW, side=SIDE, alpha=config.alpha)
        loss = adb_loss(terms.numerator_K, terms.num_kept_K, weight_K)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step_if(loss.isfinite())
        yield lr, loss, blocks


def compare_stage1(oracle: Oracle, **changed: object) -> Iterator[tuple[float, float]]:
    """The loss of each step, and how far both sides are apart after it."""
    weights = their_weights(oracle, STAGE1_MODULES)
    optimizer = plain.NesterovSGD([(list(weights.values()), 1.0)])
    rates = plain.rates(1.0, (12, 16), epochs=NUM_STEPS)
    steps = zip(rates, stage1_steps(oracle, **changed), strict=True)
    for step, (rate, (lr, loss, blocks)) in enumerate(steps, start=1):
        taps = features(oracle, step)
        maps = plain.activation_maps(weights, taps[2:], oracle["fc.weight"], side=SIDE)
        keeps = [keep.float() for keep in unpack_keep(kept_words(oracle, step), SIDES)]
        expected = plain.activation_loss(maps, keeps)
        expected.backward()
        optimizer.step(rate)
        off = [off_by(lr, rate), off_by(loss, expected)]
        yield loss.item(), max(*off, weights_off_by(blocks, STAGE1_MODULES, weights))


def test_twenty_steps_of_stage1(oracle: Oracle, shared: Path) -> None:
    losses, apart = zip(*compare_stage1(oracle), strict=True)
    assert max(apart) < TOLERANCE, apart
    numbers = json.loads((shared / "oracles" / "a2s_reference.json").read_text("utf-8"))
    assert losses[0] == pytest.approx(numbers["stage1.loss"], abs=1e-6)
    assert len(set(losses)) == NUM_STEPS


@pytest.mark.parametrize(
    "changed",
    [
        {"milestones": (10, 15)},
        {"milestones": (11, 16)},
        {"nesterov": False},
        {"momentum": 0.89},
        {"weight_decay": 0.0},
        {"alpha": 0.2},
        {"fusion_stride": 4},
        {"map_weights": (1.0, 0.1, 0.3, 0.4)},
    ],
    ids=str,
)
def test_another_setting_of_stage1_is_noticed(oracle: Oracle, changed: dict[str, object]) -> None:
    assert any(apart > 10 * TOLERANCE for _, apart in compare_stage1(oracle, **changed))


class TrainedTaps(nn.Module):
    """In the encoder's place: features that are trained themselves, the image never mattering."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.taps = nn.ParameterList(oracle[f"E{i}"].clone() for i in range(1, 6))


def stage2_steps(
    oracle: Oracle, *, trained: bool, **changed: object
) -> Iterator[tuple[float, Tensor, nn.Module, TrainedTaps, Tensor]]:
    """Rate, loss, decoder, taps and labels of every step, by the pieces of `a2s stage2`."""
    config = parse("stage2", [*OFFICIAL, "--labels", "l"]).model_copy(update=changed)
    decoder, encoder = DetectorDecoder((64, 8, 12, 16, 20)), TrainedTaps(oracle)
    load(decoder, oracle, STAGE2_MODULES)
    groups = [{"params": list(decoder.parameters()), "scale": 1.0}]
    if trained:
        groups.append({"params": list(encoder.parameters()), "scale": config.encoder_lr_scale})
    optimizer = GuardedSGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    labels, flip_B = [recorded_label(oracle, batch) for batch in range(NUM_BATCHES)], drawn_once()
    criterion = LOSS_OF[config.detector].per_image
    for step in range(1, NUM_STEPS + 1):
        lr = learning_rate(step, lr=config.lr, milestones=config.milestones)
        for group in optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        lam = lambda_at(step, lam=config.lam, warm_epochs=config.warm_epochs)
        batch = (step - 1) % NUM_BATCHES
        both = zip(encoder.taps, noise(oracle, batch), strict=True)
        taps = tuple(flip_where(tap + change, flip_B) for tap, change in both)
        logits_B1SS = decoder(taps, size=(SIDE, SIDE))
        outcome = loss_and_labels(
            logits_B1SS, labels[batch], flip_B, loss=criterion, lam=lam, hard=config.binarise
        )
        optimizer.zero_grad(set_to_none=True)
        loss = outcome.loss_M.mean()
        loss.backward()
        optimizer.step_if(loss.isfinite())
        labels[batch] = outcome.rectified_M1SS
        yield lr, loss, decoder, encoder, labels[batch]


def drawn_once() -> Tensor:
    """One image is mirrored and one is not; drawn for the run, hence for epoch 0."""
    flip_B = draw_flip(seed=0, epoch=0, key_hash_B=torch.tensor([11, 16]))
    assert flip_B.sum() == 1
    return flip_B


def compare_stage2(
    oracle: Oracle, *, trained: bool, **changed: object
) -> Iterator[tuple[float, float]]:
    """The loss of each step, and how far both sides are apart after it."""
    weights = their_weights(oracle, STAGE2_MODULES)
    taps = [oracle[f"E{i}"].clone().requires_grad_(trained) for i in range(1, 6)]
    groups = [(list(weights.values()), 1.0), (taps, 0.1)]
    optimizer = plain.NesterovSGD(groups[: 1 + trained])
    # Mirrored when they are loaded, images and labels stay as they are then.
    mirrored = [i for i, is_mirrored in enumerate(drawn_once().tolist()) if is_mirrored]

    def turned(x: Tensor) -> Tensor:
        rows = [x[i].flip(-1) if i in mirrored else x[i] for i in range(len(x))]
        return torch.stack(rows)

    labels = [turned(recorded_label(oracle, batch)) for batch in range(NUM_BATCHES)]
    rates = plain.rates(0.005, (15, 20), epochs=NUM_STEPS)
    steps = zip(rates, stage2_steps(oracle, trained=trained, **changed), strict=True)
    for step, (rate, (lr, loss, decoder, encoder, label_B1SS)) in enumerate(steps, start=1):
        batch = (step - 1) % NUM_BATCHES
        both = zip(taps, noise(oracle, batch), strict=True)
        predicted = plain.logits(weights, [turned(tap + change) for tap, change in both], side=SIDE)
        expected = plain.detection_loss(predicted, labels[batch])
        labels[batch] = plain.next_label(labels[batch], predicted, epoch=step)
        expected.backward()
        optimizer.step(rate)
        off = [off_by(lr, rate), off_by(loss, expected), off_by(label_B1SS, turned(labels[batch]))]
        off += [off_by(*pair) for pair in zip(encoder.taps, taps, strict=True)]
        yield loss.item(), max(*off, weights_off_by(decoder, STAGE2_MODULES, weights))


@pytest.mark.parametrize("trained", [False, True], ids=["decoder", "with an encoder's group"])
def test_twenty_steps_of_stage2(oracle: Oracle, trained: bool) -> None:
    losses, apart = zip(*compare_stage2(oracle, trained=trained), strict=True)
    assert max(apart) < TOLERANCE, apart
    assert len(set(losses)) == NUM_STEPS


@pytest.mark.parametrize(
    "changed",
    [
        {"milestones": (15, 19)},
        {"milestones": (14, 20)},
        {"nesterov": False},
        {"encoder_lr_scale": 0.2},
        {"lam": 0.5},
        {"warm_epochs": 3},
        {"binarise": False},
    ],
    ids=str,
)
def test_another_setting_of_stage2_is_noticed(oracle: Oracle, changed: dict[str, object]) -> None:
    steps = compare_stage2(oracle, trained=True, **changed)
    assert any(apart > 10 * TOLERANCE for _, apart in steps)
