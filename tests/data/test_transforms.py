"""Hash-based draws: reproducible, unbiased, independent of each other."""

from __future__ import annotations

import pytest
import torch

from a2s.data.transforms import (
    crop_cells,
    draw_flip,
    draw_keep_words,
    draw_window,
    draw_windows,
    flip,
    flip_where,
    hash_u32,
    is_window,
    normalise,
    unpack_keep,
    zoom,
)

M = 0xFFFFFFFF


def draw_keep(
    *, seed: int, epoch: int, key_hash_B: torch.Tensor, map_index: int, height: int, width: int
) -> torch.Tensor:
    """Draw the mask of one map that follows maps of other sizes."""
    sides = [(5 + before, 9) for before in range(map_index)] + [(height, width)]
    words = draw_keep_words(seed=seed, epoch=epoch, key_hash_B=key_hash_B, sides=sides)
    return unpack_keep(words, sides)[map_index]


def reference_mix(word: int) -> int:
    word ^= word >> 16
    word = word * 0x21F0AAAD & M
    word ^= word >> 15
    word = word * 0x735A2D97 & M
    return word ^ word >> 15


def reference_hash(*parts: int) -> int:
    """Plain Python integers, which never overflow."""
    state = 0
    for part in parts:
        for word in (part & M, part >> 32 & M):
            state = reference_mix(state ^ reference_mix(word + 0x9E3779B9 & M))
    return state


def test_hash_equals_exact_integer_arithmetic() -> None:
    keys = [0, 1, 2**32 - 1, 2**32, 2**63 - 1, 1234567890123456789]
    got = hash_u32(3, torch.tensor(keys), 2**40 + 5).tolist()
    assert got == [reference_hash(3, key, 2**40 + 5) for key in keys]


def test_every_pixel_has_its_own_bit() -> None:
    key = 2**62 + 17
    keep = draw_keep(
        seed=5, epoch=2, key_hash_B=torch.tensor([key]), map_index=1, height=3, width=30
    )
    image = reference_hash(2, 5, 2, key, 1)
    expected = [reference_hash(image, p // 32) >> (p % 32) & 1 for p in range(90)]
    assert keep.shape == (1, 1, 3, 30)
    assert keep.flatten().int().tolist() == expected


@pytest.mark.parametrize("change", ["seed", "epoch", "map_index", "key"])
def test_half_is_kept_and_draws_are_independent(change: str) -> None:
    keys = torch.arange(64) + 2**60
    base = {"seed": 0, "epoch": 1, "map_index": 0}
    keep = draw_keep(**base, key_hash_B=keys, height=40, width=40)
    assert abs(keep.float().mean() - 0.5) < 0.005
    if change == "key":
        other = draw_keep(**base, key_hash_B=keys + 1, height=40, width=40)
    else:
        changed = {**base, change: base[change] + 1}
        other = draw_keep(**changed, key_hash_B=keys, height=40, width=40)
    agreement = (keep == other).float().mean()
    assert abs(agreement - 0.5) < 0.01


def test_draws_do_not_depend_on_the_batch() -> None:
    keys = torch.tensor([3, 2**50, 99])
    together = draw_keep(seed=1, epoch=1, key_hash_B=keys, map_index=2, height=5, width=7)
    flips = draw_flip(seed=1, epoch=1, key_hash_B=keys)
    for item in range(3):
        one = keys[item : item + 1]
        alone = draw_keep(seed=1, epoch=1, key_hash_B=one, map_index=2, height=5, width=7)
        assert torch.equal(together[item], alone[0])
        assert flips[item] == draw_flip(seed=1, epoch=1, key_hash_B=one)[0]


def test_flips_are_fair_over_keys_and_epochs() -> None:
    keys = torch.arange(500)
    flips = torch.stack([draw_flip(seed=0, epoch=e, key_hash_B=keys) for e in range(20)])
    assert abs(flips.float().mean() - 0.5) < 0.02
    assert (flips.float().mean(dim=0) - 0.5).abs().max() < 0.5


def test_flips_undo_themselves() -> None:
    image = torch.rand(4, 3, 5, 6)
    which = torch.tensor([True, False, True, False])
    assert torch.equal(flip(flip(image)), image)
    mirrored = flip_where(image, which)
    assert torch.equal(mirrored[1], image[1])
    assert torch.equal(mirrored[0, :, :, 0], image[0, :, :, -1])
    assert torch.equal(flip_where(mirrored, which), image)


def test_normalise_uses_imagenet_statistics() -> None:
    image = torch.full((2, 3, 2, 2), 255, dtype=torch.uint8)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalise(image)[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-6)
    strided = image.contiguous(memory_format=torch.channels_last)
    assert normalise(strided).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_masks_unpack_equally_on_the_gpu() -> None:
    sides = [(33, 21), (4, 4)]
    keys = torch.tensor([0, 2**63 - 1, 77])
    words = draw_keep_words(seed=9, epoch=3, key_hash_B=keys, sides=sides)
    on_gpu = unpack_keep(words.cuda(), sides)
    for one, other in zip(unpack_keep(words, sides), on_gpu, strict=True):
        assert torch.equal(one, other.cpu())


def test_windows_are_inside_large_enough_and_the_same_for_all_ranks() -> None:
    seen = set()
    for step in range(300):
        draw = {"seed": 3, "epoch": 2, "step": step, "cells": (10, 7), "share": 0.7}
        rows, columns = draw_window(**draw)
        assert (rows, columns) == draw_window(**draw)
        assert 0 <= rows.start < rows.stop <= 10
        assert 0 <= columns.start < columns.stop <= 7
        assert rows.stop - rows.start >= 6
        assert columns.stop - columns.start >= 5
        seen.add((rows.start, rows.stop, columns.start, columns.stop))
    assert len(seen) > 60
    assert {start for start, _, _, _ in seen} == {0, 1, 2, 3, 4}
    whole = [
        draw_window(seed=3, epoch=2, step=step, cells=(10, 10), share=0.0) for step in range(20)
    ]
    assert set(map(str, whole)) == {str((slice(0, 10), slice(0, 10)))}


def test_a_window_of_cells_is_cut_at_every_stride() -> None:
    map_B1HW = torch.arange(48.0).view(1, 1, 6, 8)
    cut = crop_cells(map_B1HW, (slice(1, 3), slice(0, 2)), cell=2)
    assert torch.equal(cut, map_B1HW[:, :, 2:6, 0:4])


def test_windows_of_images_are_inside_large_enough_and_the_images_own() -> None:
    keys = torch.arange(4000)
    window_B4 = draw_windows(seed=3, epoch=2, key_hash_B=keys, share=0.5)
    seen_B = is_window(window_B4)
    assert 0.47 < float(seen_B.float().mean()) < 0.53
    start_B2, side_B2 = window_B4[:, :2], window_B4[:, 2:]
    assert float(start_B2.min()) >= 0
    assert float((start_B2 + side_B2).max()) <= 1 + 1e-6
    assert 0.8 <= float(side_B2.min()) < 0.81
    # Places and sizes are spread, and do not depend on the batch.
    assert float(start_B2[seen_B].std(0).min()) > 0.03
    alone = draw_windows(seed=3, epoch=2, key_hash_B=keys[7:8], share=0.5)
    assert torch.equal(alone[0], window_B4[7])
    assert not is_window(draw_windows(seed=3, epoch=2, key_hash_B=keys, share=0.0)).any()
    assert is_window(draw_windows(seed=3, epoch=2, key_hash_B=keys, share=1.0)).all()


def test_a_window_is_enlarged_and_whole_images_stay_exact() -> None:
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(10.0), indexing="ij")
    x_BCHW = (100 * rows + columns).expand(2, 1, 10, 10)
    zoomed = zoom(x_BCHW, torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.8, 0.9]]))
    assert torch.equal(zoomed[0], x_BCHW[0])
    # The first pixel's centre lies at row 2 + 0.8 / 2 and column 1 + 0.9 / 2 from the corner.
    assert float(zoomed[1, 0, 0, 0]) == pytest.approx(100 * 1.9 + 0.95, rel=1e-5)
    assert float(zoomed[1, 0, 5, 5]) == pytest.approx(100 * (1.9 + 5 * 0.8) + 0.95 + 5 * 0.9)
