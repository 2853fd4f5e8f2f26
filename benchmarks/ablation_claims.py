"""Test the paper's qualitative claims on the per-image scores of `a2s ablate`.

    python benchmarks/ablation_claims.py --run OUT --test ECSSD --masks ECSSD/masks

A claim says that one row is better than another. For both metrics (adaptive F and MAE) it prints
the mean difference over the images and its 95 % bootstrap interval over images. The interval holds
for these two networks; it does not cover other seeds. It also reports the errors of the maps of
stage 2, and the labels of small and large objects. Rows without scores are skipped and listed.
Writes `benchmarks/ablations/claims.json`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from machine import describe_machine

from a2s.storage.files import write_json

RESULT = Path(__file__).parent / "ablations" / "claims.json"
RESAMPLINGS = 10_000
LABELS, MAPS = "scores/labels-{test}", "scores/detector-{test}"
ROWS = {
    "A0": f"rows/stage1-encoder_mode-trained/{LABELS}",
    "A1": f"rows/stage1-map_weights-1-0-0-0/{LABELS}",
    "A2": f"rows/stage1-drop_pixels-false/{LABELS}",
    "A3": f"shared/{LABELS}",
    "alpha 0": f"rows/stage1-alpha-0/{LABELS}",
    "alpha 0.1": f"shared/{LABELS}",
    "alpha 0.2": f"rows/stage1-alpha-0.2/{LABELS}",
    "alpha 0.3": f"rows/stage1-alpha-0.3/{LABELS}",
    "ours, OLR": f"shared/{MAPS}",
    "ours": f"rows/stage2-lam-1/{MAPS}",
    "ours †, OLR": f"rows/stage2-detector-conv/{MAPS}",
    "ours †": f"rows/stage2-detector-conv-lam-1/{MAPS}",
    "HMA": f"rows/stage2-rectify-hma/{MAPS}",
    **{
        f"lambda {lam}": f"rows/stage2-lam-{lam}/{MAPS}" if lam != "0.4" else f"shared/{MAPS}"
        for lam in ("0", "0.2", "0.4", "0.6", "0.8", "1")
    },
}
CLAIMS = (
    ("A0 collapses", "A3", "A0"),
    ("A1 < A2", "A2", "A1"),
    ("A2 < A3", "A3", "A2"),
    ("alpha 0.1 is best", "alpha 0.1", "alpha 0"),
    ("alpha 0.1 is best", "alpha 0.1", "alpha 0.2"),
    ("alpha 0.1 is best", "alpha 0.1", "alpha 0.3"),
    ("OLR helps ours", "ours, OLR", "ours"),
    ("OLR helps ours †", "ours †, OLR", "ours †"),
    ("† < full", "ours", "ours †"),
    ("† < full, both with OLR", "ours, OLR", "ours †, OLR"),
    ("HMA < OLR", "ours, OLR", "HMA"),
    *(
        ("lambda 0.4 is best", "lambda 0.4", f"lambda {lam}")
        for lam in ("0", "0.2", "0.6", "0.8", "1")
    ),
    ("stage 2 improves on the labels", "ours, OLR", "A3"),
    ("stage 2 without OLR improves on the labels", "ours", "A3"),
)
DETECTORS = ("ours", "ours, OLR", "HMA", "lambda 0", "ours †", "ours †, OLR")
LARGE = 0.5
"""An object that covers more than this share of the image is large."""

Scores = dict[str, npt.NDArray[np.float64]]


def scores_in(folder: Path) -> Scores | None:
    """Read adaptive F and MAE per image, in the order of keys; None: not scored yet."""
    file = folder / "images.parquet"
    if not file.is_file():
        return None
    table = pq.read_table(file).sort_by("key")
    scores = {name: table[name].to_numpy() for name in ("adaptive_f", "mae")}
    return {"key": np.array(table["key"].to_pylist()), **scores}


def compared(better: Scores, worse: Scores, random: np.random.Generator) -> dict[str, Any]:
    """Mean gain and its interval in F and MAE; a gain above 0 agrees with the paper."""
    if not np.array_equal(better["key"], worse["key"]):
        raise SystemExit("two rows were not scored on the same images")
    index_RN = random.integers(0, len(better["key"]), (RESAMPLINGS, len(better["key"])))
    result: dict[str, Any] = {}
    for name, sign in (("adaptive_f", 1), ("mae", -1)):
        difference_N = sign * (better[name] - worse[name])
        low, high = np.quantile(difference_N[index_RN].mean(axis=1), (0.025, 0.975))
        result[name] = {
            "better": round(float(better[name].mean()), 4),
            "worse": round(float(worse[name].mean()), 4),
            "gain": round(float(difference_N.mean()), 4),
            "interval": [round(float(low), 4), round(float(high), 4)],
            "verdict": "yes" if low > 0 else "no, the reverse" if high < 0 else "no difference",
        }
    return result


def grey(file: Path) -> npt.NDArray[np.uint8]:
    """Read a map or mask."""
    image_HW = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    if image_HW is None:
        raise SystemExit(f"{file} cannot be read")
    return np.asarray(image_HW, np.uint8)


def errors_of(maps: Path, masks: Path) -> dict[str, float]:
    """Mean value, precision, recall and share of undecided pixels of maps, averaged over images.

    Precision and recall use the threshold of adaptive F.
    """
    rows = []
    for file in sorted(maps.glob("*.png")):
        map_HW = grey(file) / 255
        truth_HW = grey(masks / file.name) > 127
        found_HW = map_HW >= min(2 * map_HW.mean(), 1)
        hits = (found_HW & truth_HW).sum()
        undecided = ((map_HW > 0.1) & (map_HW < 0.9)).mean()
        rows.append((map_HW.mean(), hits / found_HW.sum(), hits / truth_HW.sum(), undecided))
    means = np.mean(rows, axis=0)
    names = ("mean_map", "precision", "recall", "undecided")
    return {name: round(float(value), 4) for name, value in zip(names, means, strict=True)}


def by_size(labels: Scores, masks: Path) -> dict[str, dict[str, float]]:
    """Scores of the labels of images with small and with large objects."""
    share_N = np.empty(len(labels["key"]))
    for row, key in enumerate(labels["key"]):
        share_N[row] = (grey(masks / f"{key}.png") > 127).mean()
    sides = {f"at most {LARGE:g}": share_N <= LARGE, f"over {LARGE:g}": share_N > LARGE}
    return {
        name: {
            "images": int(side_N.sum()),
            "adaptive_f": round(float(labels["adaptive_f"][side_N].mean()), 4),
            "mae": round(float(labels["mae"][side_N].mean()), 4),
            "inverted": int((labels["mae"][side_N] > 0.5).sum()),
        }
        for name, side_N in sides.items()
    }


def _maps_of(scores: Path) -> Path:
    """Folder of the maps that have these scores."""
    return scores.parents[1] / "maps" / scores.name


def main() -> None:
    """Compare the rows, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--test", default="ECSSD")
    parser.add_argument("--masks", type=Path, required=True)
    arguments = parser.parse_args()
    found = {
        name: scores_in(arguments.run / path.format(test=arguments.test))
        for name, path in ROWS.items()
    }
    scored = {name: scores for name, scores in found.items() if scores is not None}
    random = np.random.default_rng(1)
    claims = [
        {"claim": claim, "rows": f"{better} against {worse}",
         **compared(scored[better], scored[worse], random)}
        for claim, better, worse in CLAIMS
        if better in scored and worse in scored
    ]  # fmt: skip
    for entry in claims:
        print(f"{entry['claim']} ({entry['rows']})")
        for name in ("adaptive_f", "mae"):
            values = entry[name]
            print(
                f"  {name:<10} {values['better']:.4f} {values['worse']:.4f}  gain "
                f"{values['gain']:+.4f} {values['interval']}  {values['verdict']}"
            )
    errors = {
        name: errors_of(maps, arguments.masks)
        for name in DETECTORS
        if (maps := _maps_of(arguments.run / ROWS[name].format(test=arguments.test))).is_dir()
    }
    for name, values in errors.items():
        print(name, values)
    result = {
        "command": f"python benchmarks/ablation_claims.py --run OUT --test {arguments.test} "
        "--masks MASKS",
        **describe_machine(),
        "claims": claims,
        "errors": errors,
        "not_scored": sorted(found.keys() - scored.keys()),
    }
    if "A3" in scored:
        result["labels_by_size_of_the_object"] = by_size(scored["A3"], arguments.masks)
        print(result["labels_by_size_of_the_object"])
    print("not scored:", result["not_scored"])
    RESULT.parent.mkdir(exist_ok=True)
    write_json(RESULT, result)


if __name__ == "__main__":
    main()
