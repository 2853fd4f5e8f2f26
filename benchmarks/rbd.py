"""Training-free baseline on photographs with masks: scores, ablation of its steps, time.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/rbd.py --data ECSSD

ECSSD holds `images/` and `masks/`. The first scores come from `a2s predict --model rbd` and `a2s
evaluate`. Further rows score each step of the method; the method with the constants in its paper
instead of those in its authors' program (same superpixels); and the method on photographs reduced
to 128 px, with superpixels scaled along and with superpixels of 600 px. Adaptive F comes in two
variants: the mean of the images' F, as in `a2s evaluate`, and the F of mean precision and mean
recall, as in older tables. Writes `benchmarks/results/rbd.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from machine import describe_machine

from a2s.commands import evaluate, predict
from a2s.config.commands import EvaluateConfig, PredictConfig
from a2s.data.arrays import F64
from a2s.data.images import decode, decode_mask, resize_rgb
from a2s.evaluation.metrics import BETA_SQUARE, score
from a2s.models import rbd
from a2s.models.superpixels import AREA_PX, MAX_SIDE_PX, Superpixels, area_for, segment

RESULT = Path(__file__).parent / "results" / "rbd.json"
SMALL_PX = 128
PRINTED_SIGMA_COLOUR = 10.0
PRINTED_SIGMA_SPACE = 0.25


@dataclass
class Row:
    """Scores per image."""

    adaptive_f: list[float] = field(default_factory=list)
    mae: list[float] = field(default_factory=list)
    precision: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)

    def add(self, map_HW: npt.NDArray[np.float32], truth_HW: npt.NDArray[np.bool_]) -> None:
        """Score one map after enlarging it to the truth's size."""
        height, width = truth_HW.shape
        if map_HW.shape != truth_HW.shape:
            map_HW = cv2.resize(map_HW, (width, height), interpolation=cv2.INTER_LINEAR)
        levels_HW = np.rint(map_HW * 255).astype(np.uint8)
        scores = score(levels_HW, truth_HW)
        self.adaptive_f.append(scores.adaptive_f)
        self.mae.append(scores.mae)
        stretched_HW = levels_HW / max(int(levels_HW.max()), 1)
        above_HW = stretched_HW >= min(2 * stretched_HW.mean(), 1)
        hits = np.count_nonzero(above_HW & truth_HW)
        self.precision.append(hits / max(np.count_nonzero(above_HW), 1))
        self.recall.append(hits / max(np.count_nonzero(truth_HW), 1))

    def means(self) -> dict[str, float]:
        """Return the means over all images."""
        precision, recall = np.mean(self.precision), np.mean(self.recall)
        pooled = (1 + BETA_SQUARE) * precision * recall / (BETA_SQUARE * precision + recall)
        return {
            "adaptive_f": round(float(np.mean(self.adaptive_f)), 4),
            "f_of_mean_precision_and_recall": round(float(pooled), 4),
            "mae": round(float(np.mean(self.mae)), 4),
        }


def as_printed(superpixels: Superpixels) -> tuple[F64, F64]:
    """Weighted contrast and saliency with the paper's constants, without unpublished steps."""
    colour_NN = rbd.distances(superpixels.lab_N3)
    adjacent_NN, border_N = superpixels.adjacent_NN, superpixels.on_border_N
    geodesic_NN = rbd.geodesic(colour_NN, adjacent_NN | (border_N[:, None] & border_N))
    region_NN = rbd.similarity(geodesic_NN, PRINTED_SIGMA_COLOUR, reach=np.inf)
    background_N = rbd.background_probability(rbd.boundary_connectivity(region_NN, border_N))
    centre_NN = rbd.distances(superpixels.centre_N2)
    near_NN = rbd.similarity(centre_NN, PRINTED_SIGMA_SPACE, reach=np.inf)
    weighted_N = rbd.stretch(rbd.contrast(colour_NN, near_NN, background_N))
    smooth_NN = rbd.similarity(colour_NN, PRINTED_SIGMA_COLOUR, reach=np.inf) + rbd.MU
    saliency_N = rbd.optimise(background_N, weighted_N, smooth_NN * adjacent_NN)
    return weighted_N, rbd.stretch(saliency_N)


def by_jobs(data: Path) -> dict[str, float]:
    """Scores from `a2s predict` and `a2s evaluate`."""
    with tempfile.TemporaryDirectory() as folder:
        preds, scores = Path(folder) / "preds", Path(folder) / "scores"
        images = (str(data / "images"),)
        assert predict.run(PredictConfig(model="rbd", images=images, out=preds, workers=0)) == 0
        judged = EvaluateConfig(pred=preds, truth=data / "masks", out=scores, workers=0)
        assert evaluate.run(judged) == 0
        found = json.loads((scores / "scores.json").read_text("utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows: dict[str, Row] = defaultdict(Row)
    seconds: dict[str, list[float]] = defaultdict(list)
    files = sorted((args.data / "images").iterdir())
    rbd.rbd(decode(files[0].read_bytes()))
    for file in files:
        mask = (args.data / "masks" / f"{file.stem}.png").read_bytes()
        truth_HW = decode_mask(mask) > 128
        clock = [time.thread_time()]
        image_HW3 = decode(file.read_bytes())
        clock.append(time.thread_time())
        height, width = image_HW3.shape[:2]
        assert max(height, width) <= MAX_SIDE_PX, f"{file.name} would be reduced"
        superpixels = segment(image_HW3, area_px=area_for(height, width))
        clock.append(time.thread_time())
        steps = rbd.steps(superpixels)
        clock.append(time.thread_time())
        for name, first, last in zip(("decode", "slic", "rbd"), clock, clock[1:], strict=False):
            seconds[name].append(last - first)
        weighted_N, saliency_N = as_printed(superpixels)
        for name, value_N in {
            "contrast": steps.contrast_N,
            "contrast, background-weighted": steps.weighted_contrast_N,
            "contrast, background-weighted, above Otsu's threshold": steps.foreground_N,
            "optimised": steps.saliency_N,
            "as printed: contrast, background-weighted": weighted_N,
            "as printed: optimised": saliency_N,
        }.items():
            rows[name].add(superpixels.paint(value_N), truth_HW)
        share = SMALL_PX / max(height, width)
        small_HW3 = resize_rgb(image_HW3, height=round(height * share), width=round(width * share))
        area_px = area_for(*small_HW3.shape[:2])
        for name, area in {"superpixels shrink": area_px, "superpixels of 600 px": AREA_PX}.items():
            cut = segment(small_HW3, area_px=area)
            rows[f"at {SMALL_PX} px, {name}"].add(cut.paint(rbd.steps(cut).saliency_N), truth_HW)
        if len(seconds["rbd"]) % 50 == 0:
            print(f"{len(seconds['rbd'])} of {len(files)} images", flush=True)
    found = by_jobs(args.data)
    result = {
        "command": "OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/rbd.py --data ECSSD",
        **describe_machine(),
        "num_images": len(files),
        "a2s_predict_and_evaluate": {
            name: round(found[name], 4) for name in ("adaptive_f", "mean_f", "max_f", "mae")
        },
        "published_on_all_1000_images": {"f": 0.686, "mae": 0.189, "source": "arXiv 2112.03650"},
        "rows": [{"step": name, **row.means()} for name, row in rows.items()],
        "cpu_sec_per_image_mean": {
            name: round(float(np.mean(values)), 4) for name, values in seconds.items()
        },
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
