"""Scores compared with pysodmetrics and the authors' code; merging in any order."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from a2s.evaluation import levels
from a2s.evaluation.dataset_scores import DatasetScores
from a2s.evaluation.metrics import CONVENTIONS, ImageScores, binary_truth, score

Map = NDArray[np.uint8]


def disc(height: int, width: int, *, y: float, x: float, radius: float) -> Map:
    rows, columns = np.ogrid[:height, :width]
    inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
    return inside.astype(np.uint8) * 255


def cases() -> dict[str, tuple[Map, Map]]:
    rng = np.random.default_rng(3)
    truth = disc(67, 90, y=30, x=50, radius=17)
    noise = rng.integers(0, 256, truth.shape, dtype=np.uint8)
    soft = np.clip(np.roll(truth, 5, 1) * 0.6 + noise * 0.3, 0, 255).astype(np.uint8)
    edge = np.zeros_like(truth)
    edge[-1, -1] = 255
    grey = rng.integers(0, 256, truth.shape, dtype=np.uint8)
    grey[:2, :3] = [[127, 128, 129], [128, 129, 130]]
    full, empty = np.full_like(truth, 255), np.zeros_like(truth)
    return {
        "random": (noise, truth),
        "soft": (soft, truth),
        "perfect": (truth, truth),
        "binary, shifted": (np.roll(truth, 9, 0), truth),
        "inverted": (255 - truth, truth),
        "two grey levels": (np.where(truth > 0, 141, 97).astype(np.uint8), truth),
        "flat": (np.full_like(truth, 90), truth),
        "all black": (empty, truth),
        "all white": (full, truth),
        "empty truth": (soft, empty),
        "empty truth, black": (empty, empty),
        "full truth": (soft, full),
        "full truth, black": (empty, full),
        "object in two corners": (noise, disc(67, 90, y=0, x=0, radius=9) | edge),
        "truth around 128": (noise, grey),
        "two objects": (soft, truth | disc(67, 90, y=60, x=5, radius=12)),
        "tiny": (noise[:3, :4], disc(3, 4, y=1, x=1, radius=1)),
    }


CASES = cases()


def stretched(map_HW: NDArray[np.uint8]) -> NDArray[np.float64]:
    low, high = map_HW.min() / 255, map_HW.max() / 255
    return map_HW / 255 if low == high else (map_HW / 255 - low) / (high - low)


def ring_mean(map_HW: NDArray[np.generic]) -> float:
    height, width = map_HW.shape
    outermost = [
        float(map_HW[y, x])
        for y in range(height)
        for x in range(width)
        if y in (0, height - 1) or x in (0, width - 1)
    ]
    return sum(outermost) / len(outermost)


def by_library(prediction: Map, truth: Map) -> ImageScores:
    with warnings.catch_warnings():
        # The library announces that its Fmeasure will be renamed.
        warnings.simplefilter("ignore")
        import py_sod_metrics as library

        mae, f, wf, s, e = (
            library.MAE(),
            library.Fmeasure(),
            library.WeightedFmeasure(),
            library.Smeasure(),
            library.Emeasure(),
        )
    for measure in (mae, f, wf, s, e):
        measure.step(prediction, truth)
    fs, es = f.get_results(), e.get_results()["em"]
    return ImageScores(
        mae=mae.get_results()["mae"],
        adaptive_f=fs["fm"]["adp"],
        weighted_f=wf.get_results()["wfm"],
        s_measure=s.get_results()["sm"],
        e_adaptive=es["adp"],
        ring_share=ring_mean(stretched(prediction)),
        truth_ring_share=ring_mean(truth > 128),
        precision_T=fs["pr"]["p"],
        recall_T=fs["pr"]["r"],
        f_T=fs["fm"]["curve"],
        e_T=es["curve"],
    )


@pytest.mark.parametrize("name", CASES)
def test_equals_pysodmetrics(name: str) -> None:
    prediction, truth = CASES[name]
    ours, theirs = score(prediction, truth > 128), by_library(prediction, truth)
    for field in vars(theirs):
        np.testing.assert_allclose(
            getattr(ours, field), getattr(theirs, field), rtol=0, atol=1e-12, err_msg=field
        )


def test_real_photographs_equal_pysodmetrics(shared: Path) -> None:
    from a2s.data.images import decode, decode_mask

    for name in ("0003", "0098"):
        folder = shared / "data" / "ecssd200"
        truth = decode_mask((folder / "masks" / f"{name}.png").read_bytes())
        prediction = decode((folder / "images" / f"{name}.jpg").read_bytes())[..., 0].copy()
        ours, theirs = score(prediction, truth > 128), by_library(prediction, truth)
        for field in vars(theirs):
            np.testing.assert_allclose(
                getattr(ours, field), getattr(theirs, field), rtol=0, atol=1e-12, err_msg=field
            )


def test_authors_numbers(shared: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(shared / "oracles" / "a2s_reference.safetensors")
    expected = json.loads((shared / "oracles" / "a2s_reference.json").read_text())["metric"]
    totals = DatasetScores()
    names = sorted(name for name in tensors if name.startswith("metric."))
    assert names
    for name in names:
        truth = tensors[name].squeeze().astype(np.float64)
        number = name.split(".")[1]
        prediction = tensors[f"refine.{number}.prob"].squeeze()
        totals.add(score(prediction, truth / max(truth.max(), 1e-9) > 0.5))
    summary = totals.summary()
    assert summary["mae"] == pytest.approx(expected["mae"], abs=1e-6)
    assert summary["adaptive_f"] == pytest.approx(expected["adaptiveF_paper_aveF"], abs=1e-6)
    assert summary["max_f_official"] == pytest.approx(expected["maxF_official"], abs=1e-6)


def test_official_convention_equals_the_authors_numbers(shared: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(shared / "oracles" / "a2s_reference.safetensors")
    expected = json.loads((shared / "oracles" / "a2s_reference.json").read_text())["metric"]
    totals = DatasetScores()
    for name in sorted(name for name in tensors if name.startswith("metric.")):
        mask = np.rint(tensors[name].squeeze() * 255).astype(np.uint8)
        prediction = tensors[f"refine.{name.split('.')[1]}.prob"].squeeze()
        official = CONVENTIONS["official"]
        totals.add(score(prediction, binary_truth(mask, official), official))
    summary = totals.summary()
    for ours, theirs in {
        "mae": "mae",
        "adaptive_f": "adaptiveF_paper_aveF",
        "max_f_official": "maxF_official",
        "s_measure": "S",
        "e_adaptive": "E_adaptive",
        "weighted_f": "wF",
    }.items():
        assert summary[ours] == pytest.approx(expected[theirs], abs=1e-6), ours


def test_max_f_official_is_computed_from_the_mean_curves() -> None:
    rng = np.random.default_rng(0)
    totals, precisions, recalls = DatasetScores(), [], []
    for _ in range(5):
        truth = rng.random((12, 17)) > 0.6
        prediction = (rng.random((12, 17)) * 255).astype(np.uint8)
        prediction[0, 0], prediction[0, 1] = 0, 255
        totals.add(score(prediction, truth))
        at = [prediction >= threshold for threshold in range(255)]
        precisions.append([(chosen & truth).sum() / max(chosen.sum(), 1) for chosen in at])
        recalls.append([(chosen & truth).sum() / truth.sum() for chosen in at])
    p, r = np.mean(precisions, axis=0), np.mean(recalls, axis=0)
    wanted = max(1.3 * p * r / (0.3 * p + r))
    assert totals.summary()["max_f_official"] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "library", "authors"),
    [
        ([0, 127, 128, 129, 255], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]),
        ([0, 50, 100, 101], [0, 0, 0, 0], [0, 0, 1, 1]),
        ([100, 160, 200], [0, 1, 1], [0, 1, 1]),
        ([0, 0, 0], [0, 0, 0], [0, 0, 0]),
        ([255, 255], [1, 1], [1, 1]),
    ],
)
def test_graded_masks(values: list[int], library: list[int], authors: list[int]) -> None:
    mask = np.array([values], dtype=np.uint8)
    assert binary_truth(mask).tolist() == [[bool(value) for value in library]]
    official = binary_truth(mask, CONVENTIONS["official"])
    assert official.tolist() == [[bool(value) for value in authors]]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("salient", [0, 1, "all"])
def test_tiny_images_give_finite_scores(shape: tuple[int, int], salient: int | str) -> None:
    truth = np.full(shape, salient == "all")
    if salient == 1:
        truth[0, 0] = True
    prediction = np.arange(truth.size, dtype=np.uint8).reshape(shape)
    row = score(prediction, truth).row()
    assert all(np.isfinite(value) for value in row.values()), row
    # E divides by the number of pixels minus one, so it may reach 2 on two pixels.
    assert all(0 <= value <= 2 for value in row.values()), row


def test_dataset_scores_are_the_means_of_the_images() -> None:
    totals = DatasetScores()
    images = [score(prediction, truth > 128) for prediction, truth in CASES.values()]
    for image in images:
        totals.add(image)
    summary = totals.summary()
    f_T = np.mean([image.f_T for image in images], axis=0)
    assert summary["mae"] == pytest.approx(np.mean([image.mae for image in images]), abs=1e-14)
    assert summary["mean_f"] == pytest.approx(f_T.mean(), abs=1e-14)
    assert summary["max_f"] == pytest.approx(f_T.max(), abs=1e-14)
    # The maximum of the mean curve, not the mean of the images' maxima.
    assert summary["max_f"] < np.mean([image.f_T.max() for image in images]) - 0.01
    assert summary["e_measure"] == pytest.approx(
        np.mean([image.e_T.mean() for image in images]), abs=1e-14
    )


def test_merging_does_not_depend_on_order_or_grouping() -> None:
    images = [score(prediction, truth > 128) for prediction, truth in CASES.values()] * 7
    reference = DatasetScores()
    for image in images:
        reference.add(image)
    for seed in range(5):
        shuffled = random.Random(seed).sample(images, len(images))
        parts = [DatasetScores() for _ in range(1 + seed)]
        for number, image in enumerate(shuffled):
            parts[number % len(parts)].add(image)
        merged = DatasetScores()
        for part in parts:
            merged.merge(part)
        assert merged.summary() == reference.summary()
        for name, curve in merged.curves().items():
            np.testing.assert_array_equal(curve, reference.curves()[name], err_msg=name)


def test_counts_of_small_and_large_maps_are_those_of_bincount(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_HW = np.random.default_rng(0).integers(0, 2048, (70, 90)).astype(np.uint16)
    at_HW[0], at_HW[1] = 2047, 0
    expected = np.bincount(at_HW.ravel(), minlength=2048)
    for exact in (2**24, 0):
        monkeypatch.setattr(levels, "_EXACT", exact)
        found = levels._counts(at_HW, 2048)
        assert found.dtype == np.int64
        assert (found == expected).all()
