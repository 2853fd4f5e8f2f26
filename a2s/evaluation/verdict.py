"""What the scores of a run are worth: one sentence, and warnings. Pure.

Rows are `centre`, `rbd` (two baselines that learn nothing), `bundled` (the detector inside the
package, as it is), `maps`, `labels` and `detector`; each
is the content of a scores.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAMES = {
    "centre": "the Gaussian in the middle",
    "rbd": "RBD",
    "bundled": "the bundled detector",
    "maps": "activation maps",
    "labels": "labels",
    "detector": "detector",
}
"""Rows from simple to elaborate: of equal scores, the simpler one is called best."""
FEW_IMAGES = 250
"""With fewer images to learn from, `few_images` warns.

On the same 200 photographs of ECSSD, where RBD has an adaptive F of 0.663, detectors that learned
from 40, 250 and 1000 photographs had 0.605, 0.737 and 0.793 (benchmarks/results/few_images.json,
benchmarks/ablations, benchmarks/results/real_run.json).
"""
MOSTLY = 0.5
"""Share of the outermost pixels above which truths cannot be right; those of ECSSD have 0.03."""

Rows = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Agreement:
    """Mean intersection over union on a sample of the images to learn from; None: not computed."""

    num_images: int
    num_sampled: int
    labels_rbd: float
    detector_labels: float | None = None


def verdict(
    rows: Rows | None,
    agreement: Agreement | None = None,
    expected_f: Mapping[str, float] | None = None,
) -> str:
    """Say which row is best; or, without scores, what can be said without ground truth.

    `expected_f` are mean quality numbers of the rows that have them.
    """
    return _without_truth(agreement, expected_f or {}) if rows is None else _best(rows)


def warnings(rows: Rows | None) -> list[str]:
    """Say what is wrong with the truths, and what the detector is not better than (adaptive F)."""
    if rows is None:
        return []
    about_truths = inverted(rows["detector"])
    ours = rows["detector"]["adaptive_f"]
    others = {
        "labels": "its own labels ({:.3f})",
        "rbd": "RBD ({:.3f}), which learns nothing",
        "bundled": "the bundled detector ({:.3f}), which has not seen these images",
        "centre": "one Gaussian in the middle of every image ({:.3f})",
    }
    beaten_by = [
        f"the detector (adaptive F {ours:.3f}) is not better than "
        + text.format(rows[name]["adaptive_f"])
        for name, text in others.items()
        if ours <= rows[name]["adaptive_f"]
    ]
    return [*([about_truths] if about_truths else []), *beaten_by]


def inverted(scores: Mapping[str, Any]) -> str | None:
    """Warn if the truths have their object around the border, where it hardly ever is."""
    share = scores["truth_ring_share"]
    if share <= MOSTLY:
        return None
    return (
        f"{share:.0%} of the outermost pixels of the truths belong to the object: are these masks "
        "inverted (a black object on white), or photographs instead of masks?"
    )


def nothing_stands_out(num_labels: int, num_no_object: int) -> str | None:
    """Warn if most images show no salient object, by the flag of their labels."""
    if 2 * num_no_object <= num_labels:
        return None
    return (
        f"{num_no_object:,} of {num_labels:,} images to learn from show no salient object (flag "
        "no_object of their labels): look at sheet.png before you use any of this"
    )


def few_images(num_images: int, steps: Mapping[str, int]) -> str | None:
    """Warn of too few images to learn from; `steps` are the optimizer steps by stage."""
    if num_images >= FEW_IMAGES:
        return None
    taken = " and ".join(f"{count:,} in {stage}" for stage, count in steps.items())
    return (
        f"{num_images:,} images to learn from are few (optimizer steps: {taken}); detectors that we"
        f" measured beat RBD with {FEW_IMAGES} photographs, not with 40: give more images, or, if"
        " there are none, more epochs (--stage1.epochs, --stage2.epochs)"
    )


def _best(rows: Rows) -> str:
    by_f = sorted(NAMES, key=lambda name: -rows[name]["adaptive_f"])
    by_mae = min(NAMES, key=lambda name: rows[name]["mae"])
    first, *others = (f"{NAMES[name]} {rows[name]['adaptive_f']:.3f}" for name in by_f)
    mae = f"{rows[by_mae]['mae']:.3f}"
    return (
        f"best by adaptive F on {rows['detector']['num_images']:,} images: {first}, before "
        f"{', '.join(others)}; by MAE: {NAMES[by_mae]} {mae}"
    )


def _without_truth(agreement: Agreement | None, expected_f: Mapping[str, float]) -> str:
    unknown = "without --truth nobody can rank the detector"
    if expected_f:
        by_f = sorted(expected_f, key=lambda name: -expected_f[name])
        first, *others = (f"{NAMES[name]} {expected_f[name]:.2f}" for name in by_f)
        before = f", before {', '.join(others)}" if others else ""
        unknown = f"best by the expected F (quality): {first}{before}; {unknown}"
    if agreement is None:
        return unknown
    pairs = {
        "detector and labels": agreement.detector_labels,
        "labels and RBD": agreement.labels_rbd,
    }
    found = [f"{name} {value:.2f}" for name, value in pairs.items() if value is not None]
    return (
        f"{unknown}; their masks agree on {agreement.num_images} of {agreement.num_sampled} sampled"
        f" images by a mean intersection over union of: {', '.join(found)}"
    )
