"""`a2s stage1` and `a2s stage2` from shards to weights, beside the same runs written plainly.

Real files, a pretrained encoder, the real commands under `configs/official.yaml`. The other side
(`plain.py`) is told the initial weights, the order of the images, which are mirrored and which
pixels are kept: these are our own draws.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plain
import pytest
import torch
from authors import STAGE1_MODULES, STAGE2_MODULES, renamed
from parity_run import (
    SIDE,
    TOLERANCE,
    Plain,
    Run,
    check_weights,
    encoder_of,
    finish,
    image_of,
    label_of,
    start_run,
    taps_of,
)
from torch import Tensor

from a2s.data.transforms import draw_flip, draw_keep_words, unpack_keep
from a2s.labels.store.generations import Generation
from a2s.training.setup import start_stage1, start_stage2

CPU = torch.device("cpu")


def turned(image: Tensor, is_mirrored: bool) -> Tensor:
    return image.flip(-1) if is_mirrored else image


def plain_stage1(run: Run, *, epochs: int, falls_in: tuple[int, ...]) -> Plain:
    made = Plain(start_stage1(run.config, None, device=CPU)[0].state_dict())
    encoder, blocks = encoder_of(made.start), renamed(made.start, STAGE1_MODULES, prefix="heads.0.")
    factors = made.start["heads.0.e5_scale_C"][None]
    optimizer = plain.NesterovSGD([([x.requires_grad_() for x in blocks.values()], 1.0)])
    encoder.train()
    images = [image_of(run.data.read(row)) for row in range(len(run.data))]
    sides = [(side, side) for side in (SIDE, SIDE // 8, SIDE // 16, SIDE // 32)]
    for epoch, rate in enumerate(plain.rates(run.config.lr, falls_in, epochs=epochs), start=1):
        for rows in run.batches(epoch):
            draws = {"seed": 0, "epoch": epoch, "key_hash_B": run.hashes(rows)}
            both = zip(rows, draw_flip(**draws).tolist(), strict=True)
            batch = torch.stack([turned(images[row], mirrored) for row, mirrored in both])
            with torch.no_grad():
                taps = taps_of(encoder, batch)
            keeps = unpack_keep(draw_keep_words(**draws, sides=sides), sides)
            maps = plain.activation_maps(blocks, taps[2:], factors, side=SIDE)
            loss = plain.activation_loss(maps, [keep.float() for keep in keeps])
            loss.backward()
            optimizer.step(rate)
            made.rates.append(rate)
            made.losses.append(loss.item())
    return finish(made, encoder, blocks)


def plain_stage2(
    run: Run, *, epochs: int, falls_in: tuple[int, ...], train_norms: bool
) -> tuple[Plain, list[Tensor]]:
    """The labels by row are in the orientation in which they were learned from."""
    made = Plain(start_stage2(run.config, None, device=CPU)[0].state_dict())
    encoder = encoder_of(made.start)
    decoder = renamed(made.start, STAGE2_MODULES, prefix="decoder.")
    trained = [x.requires_grad_() for x in decoder.values()]
    optimizer = plain.NesterovSGD([(trained, 1.0), (list(encoder.parameters()), 0.1)])
    encoder.train(train_norms)

    # Everything is read, and half of it mirrored, once.
    images, labels = [], []
    for row, mirrored in enumerate(mirrored_once(run)):
        label_row = int(run.labels.rows_of([run.data.key(row)])[0])
        images.append(turned(image_of(run.data.read(row)), mirrored))
        labels.append(turned(label_of(run.labels.read(label_row)), mirrored))

    for epoch, rate in enumerate(plain.rates(run.config.lr, falls_in, epochs=epochs), start=1):
        for rows in run.batches(epoch):
            taps = taps_of(encoder, torch.stack([images[row] for row in rows]))
            predicted = plain.logits(decoder, taps, side=SIDE)
            target = torch.stack([labels[row] for row in rows])
            loss = plain.detection_loss(predicted, target)
            loss.backward()
            optimizer.step(rate)
            next_labels = plain.next_label(target, predicted, epoch=epoch)
            for row, label in zip(rows, next_labels, strict=True):
                labels[row] = label
            made.rates.append(rate)
            made.losses.append(loss.item())
    return finish(made, encoder, decoder), labels


def mirrored_once(run: Run) -> list[bool]:
    hash_B = run.hashes(list(range(len(run.data))))
    drawn: list[bool] = draw_flip(seed=0, epoch=0, key_hash_B=hash_B).tolist()
    return drawn


def check_log(run: Run, made: Plain, *, num_steps: int) -> None:
    assert len(run.lines) == num_steps
    assert [line["lr"] for line in run.lines] == pytest.approx(made.rates, rel=1e-9)
    assert [line["loss"] for line in run.lines] == pytest.approx(made.losses, rel=TOLERANCE)


def test_a_run_of_stage1(scenes, shared: Path, tmp_path: Path) -> None:
    """Ten steps; the encoder's statistics follow the batches, and its weights stand still."""
    run = start_run("stage1", scenes, shared, tmp_path, "--batch-size 4 --epochs 5")
    made = plain_stage1(run, epochs=5, falls_in=(4, 5))
    check_log(run, made, num_steps=10)
    check_weights(run, made, STAGE1_MODULES, prefix="heads.0.")
    first = "encoder.features.0.1.running_mean"
    assert (made.weights[first] - made.start[first]).abs().max() > 1e-3


@pytest.mark.slow
def test_a_run_of_stage2(scenes, shared: Path, tmp_path: Path) -> None:
    """Ten steps in five epochs, three of which rectify labels; the rate falls twice.

    A fiftieth of the preset's rate, and BatchNorm as it is stored: otherwise the first steps of a
    new decoder multiply the last bit of any number a thousandfold, whoever computes them.
    """
    flags = "--batch-size 4 --epochs 5 --lr 0.0001 --batchnorm frozen"
    run = start_run("stage2", scenes, shared, tmp_path, flags)
    made, labels = plain_stage2(run, epochs=5, falls_in=(4, 5), train_norms=False)
    check_log(run, made, num_steps=10)
    check_weights(run, made, STAGE2_MODULES, prefix="decoder.")
    # A label within rounding of one half may be a target of the next epoch on one side only.
    final = Generation.load(run.out / "labels", 3)
    for row, mirrored in enumerate(mirrored_once(run)):
        theirs = turned(labels[row], mirrored)[0].numpy()
        assert np.abs(final.read(row) - theirs).max() < 10 * TOLERANCE


def test_one_step_with_batchnorm_in_training(scenes, shared: Path, tmp_path: Path) -> None:
    """The batch's statistics, and stored ones that follow them, in an encoder that learns."""
    run = start_run("stage2", scenes, shared, tmp_path, "--batch-size 8 --epochs 1 --lr 0.0001")
    made, _ = plain_stage2(run, epochs=1, falls_in=(), train_norms=True)
    check_log(run, made, num_steps=1)
    check_weights(run, made, STAGE2_MODULES, prefix="decoder.")
    first = "encoder.features.0.1.running_mean"
    assert (made.weights[first] - made.start[first]).abs().max() > 1e-3
