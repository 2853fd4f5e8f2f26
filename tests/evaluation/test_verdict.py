"""The verdict of a run on hand-made scores."""

from __future__ import annotations

from typing import Any

import pytest

from a2s.evaluation.verdict import (
    FEW_IMAGES,
    Agreement,
    few_images,
    nothing_stands_out,
    verdict,
    warnings,
)


def rows(**adaptive_f: float) -> dict[str, dict[str, Any]]:
    """Scores in which everything is as it should be, but for the rows that are given."""
    good = {"centre": 0.542, "rbd": 0.663, "bundled": 0.7, "maps": 0.621, "labels": 0.748}
    good["detector"] = 0.793
    return {
        name: {
            "adaptive_f": value,
            "mae": 1 - value,
            "num_images": 200,
            "truth_ring_share": 0.03,
        }
        for name, value in {**good, **adaptive_f}.items()
    }


def test_the_best_row_is_named_with_its_number_and_measure() -> None:
    assert verdict(rows()) == (
        "best by adaptive F on 200 images: detector 0.793, before labels 0.748, the bundled "
        "detector 0.700, RBD 0.663, activation maps 0.621, the Gaussian in the middle 0.542; by "
        "MAE: detector 0.207"
    )
    assert warnings(rows()) == []


def test_the_best_by_mae_may_be_another_row() -> None:
    found = rows()
    found["rbd"]["mae"] = 0.05
    assert verdict(found).endswith("by MAE: RBD 0.050")


def test_of_equal_scores_the_simpler_row_is_best() -> None:
    assert ": RBD 0.793, before detector 0.793" in verdict(rows(rbd=0.793))


@pytest.mark.parametrize("name", ["labels", "rbd", "bundled", "centre"])
@pytest.mark.parametrize("lead", [0.0, 0.01])
def test_a_detector_that_is_not_better_is_warned_of(name: str, lead: float) -> None:
    (line,) = warnings(rows(**{name: 0.793 + lead}))
    words = {"labels": "its own labels", "rbd": "RBD", "centre": "one Gaussian"}
    words["bundled"] = "the bundled detector"
    assert "the detector (adaptive F 0.793) is not better than" in line
    assert words[name] in line
    assert f"({0.793 + lead:.3f})" in line


def test_truths_that_surround_the_image_are_warned_of() -> None:
    found = rows()
    found["detector"]["truth_ring_share"] = 0.97
    (line,) = warnings(found)
    assert line.startswith("97% of the outermost pixels of the truths belong to the object")


def test_a_bad_detector_is_warned_of_once_per_row() -> None:
    assert len(warnings(rows(detector=0.3))) == 4


def test_a_detector_below_its_maps_alone_needs_no_warning() -> None:
    assert warnings(rows(maps=0.9)) == []


def test_without_truth_nothing_is_ranked() -> None:
    assert verdict(None) == "without --truth nobody can rank the detector"
    assert warnings(None) == []
    found = verdict(None, Agreement(48, 50, labels_rbd=0.512, detector_labels=0.8))
    assert "on 48 of 50 sampled images" in found
    assert found.endswith("detector and labels 0.80, labels and RBD 0.51")
    ranked = verdict(None, None, {"labels": 0.79, "rbd": 0.74})
    assert ranked.startswith("best by the expected F (quality): labels 0.79, before RBD 0.74; ")
    assert "detector and labels" not in verdict(None, Agreement(48, 50, labels_rbd=0.5))


def test_images_without_an_object_are_warned_of() -> None:
    assert nothing_stands_out(10, 5) is None
    found = nothing_stands_out(1_000, 501)
    assert found is not None
    assert found.startswith("501 of 1,000 images to learn from show no salient object")


def test_few_images_are_warned_of_with_their_steps() -> None:
    found = few_images(40, {"stage 1": 100, "stage 2": 125})
    assert found is not None
    assert found.startswith("40 images to learn from are few")
    assert "100 in stage 1 and 125 in stage 2" in found
    assert "--stage2.epochs" in found
    assert few_images(FEW_IMAGES - 1, {"stage 1": 640}) is not None
    assert few_images(FEW_IMAGES, {"stage 1": 640}) is None
