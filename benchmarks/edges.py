"""Edges of saliency maps: the dense CRF of `--refine` against guided filters and no refinement.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/edges.py --data ECSSD --model RUN

ECSSD holds `images/` and `masks/`; RUN is a model of `a2s stage1` or `stage2`. Each way refines the
maps of that model, and those of RBD. Scores are means over the photographs: MAE, MAE in a band of
10 pixels on both sides of the true boundary, F of the boundary at half of the range (a pixel counts
if the other boundary is at most 3 pixels away), IoU at half of the range, and CPU seconds per
photograph. Writes `benchmarks/results/edges.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from machine import describe_machine

from a2s.data.arrays import F32, U8, Bool
from a2s.data.images import MAX_PIXELS, BadImage, decode, decode_mask
from a2s.data.open_files import Address
from a2s.labels.crf.backends import marginal_of
from a2s.labels.crf.energy import CrfParams, hard_energy
from a2s.labels.edges import refine_map
from a2s.models.adaptive import at_adaptive_boundary
from a2s.models.predict import Picture, load_step, to_map
from a2s.models.saved import Model, SavedNetwork

RESULT = Path(__file__).parent / "results" / "edges.json"
BAND_PX = 10
TOLERANCE_PX = 3
MARGINAL = marginal_of("numba")
Way = Callable[[U8, U8], U8]
"""(image_HW3, map_HW) -> map_HW."""


def share(map_HW: U8) -> F32:
    return map_HW.astype(np.float32) / 255


def levels(values_HW: F32) -> U8:
    return np.rint(np.clip(values_HW, 0, 1) * 255).astype(np.uint8)


def crf(image_HW3: U8, map_HW: U8) -> U8:
    return refine_map(image_HW3, map_HW, MARGINAL)


def crf_of_labels(image_HW3: U8, map_HW: U8) -> U8:
    """Start from the binarised map, as pseudo labels do."""
    energy_2N = hard_energy(share(map_HW), CrfParams())
    return levels(MARGINAL(image_HW3, energy_2N, CrfParams()))


def crf_at_adaptive_boundary(image_HW3: U8, map_HW: U8) -> U8:
    return crf(image_HW3, levels(at_adaptive_boundary(share(map_HW))))


def box(values: F32, radius: int) -> F32:
    side = 2 * radius + 1
    return cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT)


def guided_grey(radius: int, epsilon: float) -> Way:
    """Guided filter (He et al. 2010) with the grey image as guide."""

    def way(image_HW3: U8, map_HW: U8) -> U8:
        guide, p = share(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)), share(map_HW)
        mean_guide, mean_p = box(guide, radius), box(p, radius)
        covariance = box(guide * p, radius) - mean_guide * mean_p
        a = covariance / (box(guide * guide, radius) - mean_guide**2 + epsilon)
        b = mean_p - a * mean_guide
        return levels(box(a, radius) * guide + box(b, radius))

    return way


def guided_colour(radius: int, epsilon: float) -> Way:
    """The same with the three channels as guide."""

    def way(image_HW3: U8, map_HW: U8) -> U8:
        guide, p = share(image_HW3), share(map_HW)
        mean_guide, mean_p = box(guide, radius), box(p, radius)
        products = [box(guide[..., c] * p, radius) - mean_guide[..., c] * mean_p for c in range(3)]
        matrix = np.empty((*p.shape, 3, 3), np.float32)
        for i in range(3):
            for j in range(3):
                both = box(guide[..., i] * guide[..., j], radius)
                matrix[..., i, j] = both - mean_guide[..., i] * mean_guide[..., j]
            matrix[..., i, i] += epsilon
        a = np.linalg.solve(matrix, np.stack(products, -1)[..., None])[..., 0]
        b = mean_p - (a * mean_guide).sum(-1)
        return levels((box(a, radius) * guide).sum(-1) + box(b, radius))

    return way


def crf_then_guided(image_HW3: U8, map_HW: U8) -> U8:
    return guided_grey(4, 1e-4)(image_HW3, crf(image_HW3, map_HW))


WAYS: dict[str, Way] = {
    "none": lambda image_HW3, map_HW: map_HW,
    "dense CRF from the map (--refine)": crf,
    "dense CRF from binarised maps, as for labels": crf_of_labels,
    "dense CRF from the map at its adaptive boundary": crf_at_adaptive_boundary,
    "guided filter, grey, 8 px, 1e-4": guided_grey(8, 1e-4),
    "guided filter, grey, 16 px, 1e-4": guided_grey(16, 1e-4),
    "guided filter, colour, 8 px, 1e-4": guided_colour(8, 1e-4),
    "guided filter, colour, 16 px, 1e-4": guided_colour(16, 1e-4),
    "dense CRF, then guided filter, grey, 4 px, 1e-4": crf_then_guided,
}


def disc(radius: int) -> U8:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def boundary(mask_HW: Bool) -> Bool:
    """Pixels of a mask with a neighbour outside it; the image's border is none."""
    inner = cv2.erode(mask_HW.astype(np.uint8), disc(1), borderValue=1)
    return mask_HW & (inner == 0)


def near(mask_HW: Bool, radius: int) -> Bool:
    return cv2.dilate(mask_HW.astype(np.uint8), disc(radius)) > 0


def score(map_HW: U8, truth_HW: Bool) -> dict[str, float]:
    error_HW = np.abs(share(map_HW) - truth_HW)
    band_HW = near(truth_HW, BAND_PX) & near(~truth_HW, BAND_PX)
    mask_HW = map_HW > 127
    true_edge_HW, edge_HW = boundary(truth_HW), boundary(mask_HW)
    hits = np.count_nonzero(edge_HW & near(true_edge_HW, TOLERANCE_PX))
    found = np.count_nonzero(true_edge_HW & near(edge_HW, TOLERANCE_PX))
    precision = hits / max(np.count_nonzero(edge_HW), 1)
    recall = found / max(np.count_nonzero(true_edge_HW), 1)
    union = np.count_nonzero(mask_HW | truth_HW)
    return {
        "mae": float(error_HW.mean()),
        "band_mae": float(error_HW[band_HW].mean()),
        "boundary_f": 2 * precision * recall / max(precision + recall, 1e-9),
        "iou": np.count_nonzero(mask_HW & truth_HW) / max(union, 1),
    }


def measure(data: Path, model: Model) -> dict[str, dict[str, float]]:
    """Mean scores of each way for the maps of one model."""
    rows: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    step = load_step(model, MAX_PIXELS)
    for number, file in enumerate(sorted((data / "images").iterdir()), start=1):
        (answer,) = step([Picture(file.stem, Address(str(file)), str(file))])
        assert not isinstance(answer, BadImage), answer
        image_HW3, map_HW = decode(file.read_bytes()), to_map(answer)
        truth_HW = decode_mask((data / "masks" / f"{file.stem}.png").read_bytes()) > 128
        for name, way in WAYS.items():
            start = time.thread_time()
            refined_HW = way(image_HW3, map_HW)
            seconds = time.thread_time() - start
            for key, value in score(refined_HW, truth_HW).items():
                rows[name][key].append(value)
            # The first photograph also pays for what is compiled.
            if number > 1:
                rows[name]["cpu_sec"].append(seconds)
        if number % 50 == 0:
            print(f"{number} images", flush=True)
    return {
        name: {key: round(float(np.mean(values)), 4) for key, values in row.items()}
        for name, row in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    saved = SavedNetwork.find(args.model)
    large_HW3 = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    large_HW3 = cv2.resize(large_HW3, (4000, 3000))
    large_HW = cv2.GaussianBlur(large_HW3[..., 0], (0, 0), 40)
    models = {
        f"{saved.kind}, {saved.metadata['encoder.name']}": measure(args.data, saved),
        "rbd": measure(args.data, "rbd"),
    }
    start = time.thread_time()
    crf(large_HW3, large_HW)
    result = {
        "command": "OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/edges.py --data ECSSD "
        "--model RUN",
        **describe_machine(),
        "num_images": len(list((args.data / "images").iterdir())),
        "models": models,
        "refine_cpu_sec_of_12_megapixels": round(time.thread_time() - start, 2),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
