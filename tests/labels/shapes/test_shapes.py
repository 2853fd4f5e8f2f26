"""Run lengths, brush strokes and polygons: there and back, and as pycocotools reads them."""

from __future__ import annotations

import numpy as np
import pytest
from export_run import brush_stroke, drawn_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from a2s.labels.shapes import brush, run_lengths
from a2s.labels.shapes.polygons import joined, outlines, polygon_mask
from a2s.labels.shapes.regions import regions

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def check_all(mask_HW: np.ndarray) -> None:
    height, width = mask_HW.shape
    stream = brush_stroke(mask_HW)
    assert (brush.decode(stream, height=height, width=width) == mask_HW).all()
    for instances in (False, True):
        total_HW = np.zeros_like(mask_HW)
        for one in regions(mask_HW, instances=instances):
            counts = run_lengths.coco_counts(one)
            text = run_lengths.compress(counts)
            assert run_lengths.decompress(text) == counts
            rle = {"size": [height, width], "counts": text}
            inside_HW = coco.decode(rle).astype(bool)
            assert coco.encode(np.asfortranarray(inside_HW.astype(np.uint8)))["counts"] == (
                text.encode()
            )
            assert int(coco.area(rle)) == one.area == inside_HW.sum()
            assert tuple(coco.toBbox(rle).astype(int).tolist()) == one.box
            own_HW = run_lengths.coco_mask(counts, height=height, width=width)
            assert (own_HW == inside_HW).all()
            rings = outlines(one)
            for polygons in (rings, [joined(rings)]):
                flat = [points.ravel().tolist() for points in polygons]
                theirs = coco.decode(coco.merge(coco.frPyObjects(flat, height, width)))
                assert (theirs.astype(bool) == inside_HW).all()
                ours = [polygon_mask(points, height=height, width=width) for points in polygons]
                assert (np.any(ours, axis=0) == inside_HW).all()
            assert not (total_HW & inside_HW).any()
            total_HW |= inside_HW
        assert (total_HW == mask_HW).all()


@pytest.mark.parametrize("name", drawn_masks())
def test_drawn_masks_survive_every_shape(name: str) -> None:
    check_all(drawn_masks()[name])


@settings(max_examples=150, deadline=None)
@given(mask_HW=MASKS)
def test_any_mask_survives_every_shape(mask_HW: np.ndarray) -> None:
    check_all(mask_HW)


def test_components_are_those_that_touch_by_a_corner() -> None:
    corners_HW = drawn_masks()["images/corners"]
    assert [one.area for one in regions(corners_HW, instances=True)] == [8, 1]
    assert [one.area for one in regions(corners_HW, instances=False)] == [9]
    assert regions(corners_HW & False, instances=True) == []
    # Outlines of what touches by a corner do not cross.
    assert len(outlines(regions(corners_HW, instances=True)[0])) == 2


def test_a_hole_is_cut_out_of_one_polygon() -> None:
    ring_HW = drawn_masks()["a/ring"]
    ring, island, block = regions(ring_HW, instances=True)
    (outline,) = outlines(ring)
    assert len(outline) == 4 + 1 + 4 + 1
    assert (len(outlines(island)[0]), len(outlines(block)[0])) == (4, 4)


def test_brush_strokes_of_runs_longer_than_a_length() -> None:
    mask_HW = np.zeros((300, 400), bool)
    mask_HW[100:, 7:] = True
    stream = brush_stroke(mask_HW)
    assert (brush.decode(stream, height=300, width=400) == mask_HW).all()


def test_soft_brush_edges_and_plain_words_are_read() -> None:
    # 2 x 1 pixels, eight words as they are: the opacities are 200 and 100.
    words = [0, 0, 0, 200, 9, 9, 9, 100]
    numbers = [(8, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4), (0, 1), (0, 2), (7, 3)]
    bits = "".join(f"{n:0{w}b}" for n, w in [*numbers, *((word, 8) for word in words)])
    stream = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert brush.decode(stream, height=1, width=2).tolist() == [[True, False]]


@settings(max_examples=200, deadline=None)
@given(stream=st.lists(st.integers(-1, 300), max_size=60), mask_HW=MASKS, cut=st.integers(0, 40))
def test_damaged_brush_strokes_are_refused(stream, mask_HW, cut) -> None:
    height, width = mask_HW.shape
    whole = brush_stroke(mask_HW)
    for damaged in (stream, whole[:cut] + stream, whole[: max(0, len(whole) - 1 - cut)]):
        try:
            found_HW = brush.decode(damaged, height=height, width=width)
        except ValueError:
            continue
        assert found_HW.shape == mask_HW.shape


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=40), raw=st.text("01?@OPo~", max_size=40))
def test_damaged_run_lengths_are_refused(text: str, raw: str) -> None:
    for one in (text, raw):
        try:
            counts = run_lengths.decompress(one)
            mask_HW = run_lengths.coco_mask(counts, height=3, width=4)
        except ValueError:
            continue
        assert mask_HW.shape == (3, 4)


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([2**63, 2**63], "cover"),
        ([5, 8], "cover 13 pixels, the image has 12"),
        ([-1, 13], "whole number"),
        ([1.5, 10.5], "whole number"),
        ([True, 11], "whole number"),
        ([], "cover 0"),
    ],
)
def test_run_lengths_that_do_not_fit_are_refused(counts, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        run_lengths.coco_mask(counts, height=3, width=4)


def test_run_lengths_that_overflow_are_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        run_lengths.decompress("o" * 50 + "0")
    with pytest.raises(ValueError, match="end within a number"):
        run_lengths.decompress("o")


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([1, 2, 3, 4], "three pairs"),
        ([1, 2, 3, 4, 5], "three pairs"),
        ([0, 0, 1, 1, float("nan"), 2], "nowhere near"),
        ([0, 0, 1, 1, 1e300, 2], "nowhere near"),
        ([0, 0, 1, 1, 10**400, 2], "no number"),
        ([0, 0, 1, 1, [2], 2], "no number"),
        ({"x": 1}, "no number"),
        ([0, -9e6, 1, 9e6] * 400_000, "too long"),
    ],
)
def test_polygons_that_are_none_are_refused(points, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        polygon_mask(points, height=200, width=40)


def test_polygons_beyond_the_image_are_clipped() -> None:
    found_HW = polygon_mask([-5, -5, 2.4, -5, 2.4, 99, -5, 99], height=4, width=6)
    assert found_HW.tolist() == [[True, True, False, False, False, False]] * 4
