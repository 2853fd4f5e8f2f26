"""Fit and judge the quality number of labels, and the flag for images without an object.

    a2s label --model RUN --data TEST --out LABELS        (once per seed)
    python benchmarks/label_quality.py --votes LABELS... --head LABELS... --detector LABELS...
        --rbd LABELS --masks DIR --out RESULT.json

Every source of labels has weights of its own, fitted to all of its folders, which hold labels of
the same images by other runs. They are judged by labels of a run that did not take part, on images
that did not either (5 parts, 4 shuffles); RBD learns nothing, so it has one folder. `today` judges
the weights that a2s has, on all labels, `by_weights_of_votes` what those of votes would say of that
source.

    python benchmarks/label_quality.py --crops DIR --images IMAGES --masks MASKS

writes the largest part of every image without its object: photographs in which nothing is salient,
or less. Their label folders, and those of textures, go to `--empty`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from machine import describe_machine
from PIL import Image

from a2s.data.images import decode_mask
from a2s.data.index import Index
from a2s.evaluation.metrics import binary_truth, score
from a2s.labels.quality import NO_OBJECT_PEAK, WEIGHTS, Source

COLUMNS = ("map_overlap", "map_inside", "colour_contrast", "decision_margin", "sign_margin")
FEATURES = (*COLUMNS[:3], "border_contact", "components", "area", "decision_margin", "growth")
RIDGE, PARTS, SHUFFLES, BAD_IOU = 3.0, 5, 4, 0.4
F64 = npt.NDArray[np.float64]


def read(folder: Path, masks: Path) -> dict[str, F64]:
    """Read features, quality, true F and IoU of every label of a folder, in the order of keys."""
    index = Index.load(folder)
    rows = index.rows_by_key()
    order = [rows[key] for key in sorted(rows)]
    found = {name: index.column(name)[order] for name in (*COLUMNS, "map_peak")}
    found["components"] = np.log1p(index.column("num_components")[order])
    found["border_contact"] = index.column("border_contact")[order].clip(0, 0.3)
    area = index.column("area_share")[order]
    found["area"] = area.clip(0, 0.5)
    found["growth"] = (area - (0.5 - found.pop("sign_margin"))).clip(-0.1, 0.1)
    found["f"], found["iou"] = np.zeros(len(order)), np.zeros(len(order))
    for number, row in enumerate(order):
        label = decode_mask(index.read(row)) > 127
        truth = binary_truth(decode_mask((masks / f"{index.key(row)}.png").read_bytes()))
        found["f"][number] = score(label.astype(np.float64), truth).adaptive_f
        found["iou"][number] = (label & truth).sum() / max((label | truth).sum(), 1)
    return found


def fit(seeds: list[dict[str, F64]], rows: npt.NDArray[np.int64]) -> F64:
    """Fit weights by ridge regression of standardised features. Returns intercept and weights."""
    x_NF = np.concatenate([np.stack([s[name][rows] for name in FEATURES], 1) for s in seeds])
    y_N = np.concatenate([s["f"][rows] for s in seeds])
    mean_F, std_F = x_NF.mean(0), x_NF.std(0) + 1e-9
    z_NF = (x_NF - mean_F) / std_F
    weight_F = np.linalg.solve(
        z_NF.T @ z_NF + RIDGE * np.eye(len(FEATURES)), z_NF.T @ (y_N - y_N.mean())
    )
    return np.concatenate(
        [[y_N.mean() - (weight_F * mean_F / std_F).sum()], np.asarray(weight_F / std_F)]
    )


def apply(weights: F64, seed: dict[str, F64], rows: npt.NDArray[np.int64]) -> F64:
    """Expected F of some labels by fitted weights."""
    x_NF = np.stack([seed[name][rows] for name in FEATURES], axis=1)
    return np.asarray((weights[0] + x_NF @ weights[1:]).clip(0, 1))


def auc(score_N: F64, positive_N: npt.NDArray[np.bool_]) -> float:
    """Probability that a positive has the higher score, ties counting half."""
    positive, negative = score_N[positive_N], score_N[~positive_N]
    greater = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
    return float(greater)


def spearman(a_N: F64, b_N: F64) -> float:
    """Correlation of ranks; values are hardly ever equal here."""
    ranks = [np.argsort(np.argsort(values)) for values in (a_N, b_N)]
    return float(np.corrcoef(*ranks)[0, 1])


def judged(expected_N: F64, f_N: F64, iou_N: F64) -> dict[str, Any]:
    """Spearman with the true F, AUC for labels with IoU below .4, and calibration by decile."""
    parts = np.array_split(np.argsort(expected_N), 10)
    table = [[round(float(v[part].mean()), 3) for v in (expected_N, f_N)] for part in parts]
    return {
        "spearman_f": round(spearman(expected_N, f_N), 3),
        "auc_iou_below_.4": round(auc(-expected_N, iou_N < BAD_IOU), 3),
        "mean_error": round(float(np.abs(expected_N - f_N).mean()), 3),
        "calibration_expected_true": table,
        "calibration_error": round(float(np.mean([abs(a - b) for a, b in table])), 3),
    }


def held_out(seeds: list[dict[str, F64]]) -> dict[str, Any]:
    """Judge weights on a seed and on images that they were not fitted to; mean over seeds."""
    num_images = len(seeds[0]["f"])
    results = []
    for number, judged_seed in enumerate(seeds):
        others = [seed for other, seed in enumerate(seeds) if other != number] or seeds
        expected = np.zeros((SHUFFLES, num_images))
        for shuffle in range(SHUFFLES):
            order = np.random.default_rng(shuffle).permutation(num_images)
            for part in np.array_split(order, PARTS):
                weights = fit(others, np.setdiff1d(order, part))
                expected[shuffle, part] = apply(weights, judged_seed, part)
        results += [judged(row, judged_seed["f"], judged_seed["iou"]) for row in expected]
    means = {name: round(float(np.mean([r[name] for r in results])), 3) for name in results[0]
             if name != "calibration_expected_true"}  # fmt: skip
    table = np.mean([r["calibration_expected_true"] for r in results], axis=0).round(3).tolist()
    return means | {"calibration_expected_true": table}


def plot(tables: dict[str, list[list[float]]], file: Path) -> None:
    """Draw expected against true F by decile, a line for every source."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for source, table in tables.items():
        axes.plot(*np.array(table).T, marker="o", label=source)
    axes.legend(frameon=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="quality (expected F)", ylabel="true adaptive F")
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})


def write_crops(out: Path, images: Path, masks: Path, *, at_least: int = 110) -> int:
    """Write the largest strip of every image beside its object. Returns how many there are."""
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.iterdir()):
        image_HW3 = np.asarray(Image.open(path).convert("RGB"))
        truth_HW = binary_truth(decode_mask((masks / f"{path.stem}.png").read_bytes()))
        ys, xs = np.nonzero(truth_HW)
        strips = [
            image_HW3[: ys.min()],
            image_HW3[ys.max() + 1 :],
            image_HW3[:, : xs.min()],
            image_HW3[:, xs.max() + 1 :],
        ]
        largest = max(strips, key=lambda strip: strip.size)
        if min(largest.shape[:2]) >= at_least:
            Image.fromarray(largest).save(out / f"{path.stem}.png")
    return len(list(out.iterdir()))


def of_source(source: Source, runs: list[dict[str, F64]], votes: F64 | None) -> dict[str, Any]:
    """Weights for the labels of one source, and how well they judge."""
    today = np.array(dataclasses.astuple(WEIGHTS[source]))
    everything = np.arange(len(runs[0]["f"]))
    result: dict[str, Any] = {
        "num_runs": len(runs),
        "weights": dict(
            zip(("intercept", *FEATURES), fit(runs, everything).round(3).tolist(), strict=True)
        ),
        "mean_f": [round(float(run["f"].mean()), 3) for run in runs],
        "held_out": held_out(runs),
        "today": [judged(apply(today, run, everything), run["f"], run["iou"]) for run in runs],
        "single_features_spearman_auc": {
            name: [
                round(spearman(runs[0][name], runs[0]["f"]), 2),
                round(auc(-runs[0][name], runs[0]["iou"] < BAD_IOU), 2),
            ]
            for name in (*FEATURES, "map_peak")
        },
        "flagged_with_object": [
            round(float((run["map_peak"] < NO_OBJECT_PEAK).mean()), 3) for run in runs
        ],
    }
    if votes is not None:
        result["by_weights_of_votes"] = [
            judged(apply(votes, run, everything), run["f"], run["iou"]) for run in runs
        ]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for source in get_args(Source):
        parser.add_argument(f"--{source}", type=Path, nargs="+", default=[])
    parser.add_argument("--masks", type=Path, required=True)
    parser.add_argument("--empty", type=Path, nargs="*", default=[])
    parser.add_argument("--crops", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.crops:
        print(write_crops(args.crops, args.images, args.masks), "crops")
        return
    runs = {
        source: [read(folder, args.masks) for folder in getattr(args, source)]
        for source in get_args(Source)
    }
    votes = runs["votes"]
    everything = np.arange(len(votes[0]["f"]))
    of_votes = fit(votes, everything)
    result: dict[str, Any] = {"machine": describe_machine(), "num_images": len(everything)}
    for source, folders in runs.items():
        result[source] = of_source(source, folders, None if source == "votes" else of_votes)
    for folder in args.empty:
        peak = Index.load(folder).column("map_peak")
        both = np.concatenate([votes[0]["map_peak"], peak])
        result[f"without_object_{folder.name}"] = {
            "num_images": len(peak),
            "flagged": round(float((peak < NO_OBJECT_PEAK).mean()), 3),
            "auc": round(auc(-both, np.arange(len(both)) >= len(everything)), 3),
        }
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
        tables = {
            source: result[source]["held_out"]["calibration_expected_true"] for source in runs
        }
        plot(tables, args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
