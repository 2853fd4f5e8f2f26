"""Scores by the image border, and rows of baselines: hand-made masks with known answers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from a2s.evaluation.dataset_scores import OWN, DatasetScores, RowScores
from a2s.evaluation.metrics import ImageScores, score, score_each
from a2s.evaluation.table import NONE, baseline, border_note, markdown_lines, text_lines
from a2s.models.centre import centre

Map = NDArray[np.uint8]
Bool = NDArray[np.bool_]


def inner() -> Bool:
    """An object that no border pixel belongs to: 4 of 36 pixels."""
    truth_HW = np.zeros((6, 6), bool)
    truth_HW[2:4, 2:4] = True
    return truth_HW


def outer() -> Bool:
    """An object on the left border: the 6 left of 20 border pixels."""
    truth_HW = np.zeros((6, 6), bool)
    truth_HW[:, 0] = True
    return truth_HW


def as_map(mask_HW: Bool) -> Map:
    return mask_HW.astype(np.uint8) * 255


def test_ring_shares_of_hand_made_masks() -> None:
    found = score(as_map(outer()), inner())
    assert (found.ring_share, found.truth_ring_share) == (6 / 20, 0)
    assert not found.touches_border
    found = score(as_map(inner()), outer())
    assert (found.ring_share, found.truth_ring_share) == (0, 6 / 20)
    assert found.touches_border


def test_a_soft_map_is_stretched_before_its_ring_is_measured() -> None:
    map_HW = np.full((6, 6), 100, np.uint8)
    map_HW[2:4, 2:4] = 200
    map_HW[0, :] = 150
    assert score(map_HW, inner()).ring_share == pytest.approx(0.5 * 6 / 20)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_every_pixel_of_a_thin_image_is_on_its_border(shape: tuple[int, int]) -> None:
    found = score(np.zeros(shape, np.uint8), np.ones(shape, bool))
    assert (found.ring_share, found.truth_ring_share) == (0, 1)


def test_f_of_touching_images_and_of_the_others() -> None:
    totals = DatasetScores()
    # Two objects on the border, of which one is found, and one inside that is found.
    for map_HW, truth_HW in ((outer(), outer()), (inner(), outer()), (inner(), inner())):
        totals.add(score(as_map(map_HW), truth_HW))
    found = totals.summary()
    assert found["num_touching"] == 2
    assert found["adaptive_f_touching"] == 0.5
    assert found["adaptive_f_not_touching"] == 1
    assert found["adaptive_f"] == pytest.approx(2 / 3)
    assert found["ring_share"] == pytest.approx((6 / 20) / 3)
    assert found["truth_ring_share"] == pytest.approx((6 / 20) * 2 / 3)


def test_without_touching_images_their_f_is_unknown() -> None:
    totals = DatasetScores()
    totals.add(score(as_map(inner()), inner()))
    found = totals.summary()
    assert (found["num_touching"], found["adaptive_f_touching"]) == (0, None)
    assert found["adaptive_f_not_touching"] == 1


def test_an_empty_truth_touches_nothing() -> None:
    totals = DatasetScores()
    totals.add(score(as_map(inner()), np.zeros((6, 6), bool)))
    assert totals.summary()["num_touching"] == 0
    assert totals.summary()["adaptive_f_not_touching"] == 0


def test_several_maps_on_one_truth_score_as_each_alone() -> None:
    rng = np.random.default_rng(5)
    for truth_HW in (inner(), outer(), np.zeros((6, 6), bool), np.ones((6, 6), bool)):
        maps = [rng.integers(0, 256, (6, 6), dtype=np.uint8) for _ in range(3)]
        for together, map_HW in zip(score_each(maps, truth_HW), maps, strict=True):
            assert together.row() == score(map_HW, truth_HW).row()


def images() -> list[dict[str, ImageScores]]:
    rng = np.random.default_rng(1)
    made = []
    for number, truth_HW in zip(range(24), itertools.cycle((inner(), outer()))):
        maps = [rng.integers(0, 256, (6, 6), dtype=np.uint8), centre(6, 6)]
        # RBD could not be computed for every fifth image.
        maps += [rng.integers(0, 256, (6, 6), dtype=np.uint8)] if number % 5 else []
        found = score_each(maps, truth_HW)
        made.append(dict(zip((OWN, "centre", "rbd"), found, strict=False)))
    return made


def test_rows_merge_exactly_in_any_order() -> None:
    made = images()
    reference = RowScores()
    for image in made:
        reference.add(image)
    expected = reference.summary()
    assert (expected["num_images"], expected["centre_num_images"]) == (24, 24)
    assert expected["rbd_num_images"] == 19
    assert (expected["num_touching"], expected["centre_num_touching"]) == (12, 12)
    for seed in range(5):
        parts = [RowScores() for _ in range(1 + seed)]
        for number, image in enumerate(random.Random(seed).sample(made, len(made))):
            parts[number % len(parts)].add(image)
        merged = RowScores()
        for part in random.Random(seed).sample(parts, len(parts)):
            merged.merge(part)
        assert merged.summary() == expected


def test_a_baseline_is_read_from_flat_scores() -> None:
    totals = RowScores()
    totals.add(images()[0])
    scores = totals.summary()
    found = baseline(scores, "centre")
    assert found is not None
    assert found["adaptive_f"] == scores["centre_adaptive_f"]
    assert found["num_images"] == 1
    assert baseline(scores, "rbd") is None


def test_a_terminal_table_is_aligned_and_shows_texts_and_gaps() -> None:
    columns = (("adaptive F", "adaptive_f"), ("F touching", "adaptive_f_touching"))
    ours = {"adaptive_f": 0.25, "adaptive_f_touching": None}
    lines = [*text_lines({"predictions": ours, "rbd": "not here"}, columns)]
    assert lines == [
        "             adaptive F  F touching",
        "predictions      0.2500           –",
        "rbd          not here",
    ]


def test_a_markdown_table() -> None:
    lines = [*markdown_lines({"ours": {"mae": 0.1239}}, (("MAE", "mae"), ("S", "s")), first="row")]
    assert lines == ["| row | MAE | S |", "|---|---|---|", f"| ours | 0.124 | {NONE} |"]


def test_the_note_counts_both_kinds_of_images() -> None:
    note = border_note({"num_images": 1200, "num_touching": 54, "truth_ring_share": 0.02927})
    assert "the 54 of 1,200 images" in note
    assert "the other 1,146" in note
    assert "0.0293 in the truths" in note
