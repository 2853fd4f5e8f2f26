"""CPU time of the parts of `a2s evaluate` for a pair, and of pysodmetrics.

    python benchmarks/evaluate_parts.py --out benchmarks/results/evaluate_parts.json

Ten masks of ECSSD ($A2S_SHARED), with predictions as in `evaluate.py`; the best of three calls.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import py_sod_metrics
from machine import describe_machine

from a2s.data.images import decode_mask
from a2s.evaluation import metrics, weighted_f
from a2s.evaluation.levels import cells, levels
from a2s.models.centre import centre
from a2s.storage import machine
from a2s.storage.files import write_json

SHARED = Path(os.environ.get("A2S_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")
    machine.keep_freed_memory()
    seconds = defaultdict[str, list[float]](list)

    def timed(part: str, function: Callable[..., Any], *arguments: Any) -> Any:
        taken = []
        for _ in range(3):
            began = time.process_time()
            result = function(*arguments)
            taken.append(time.process_time() - began)
        seconds[part].append(min(taken))
        return result

    def library(map_HW: Any, mask_HW: Any) -> None:
        names = ("MAE", "Fmeasure", "WeightedFmeasure", "Smeasure", "Emeasure")
        for name in names:
            getattr(py_sod_metrics, name)().step(map_HW, mask_HW)

    rng = np.random.default_rng(0)
    for path in sorted((SHARED / "data" / "ecssd200" / "masks").iterdir())[::20]:
        mask_HW = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        soft = cv2.GaussianBlur(np.roll(mask_HW, 12, 1), (0, 0), 9).astype(int)
        map_HW = np.clip(soft + rng.integers(0, 40, mask_HW.shape), 0, 255).astype(np.uint8)
        timed("decode map", decode_mask, cv2.imencode(".png", map_HW)[1].tobytes())
        truth_HW = metrics.binary_truth(timed("decode truth", decode_mask, path.read_bytes()))
        around = timed("nearest object pixels, distances", weighted_f.surroundings, truth_HW)
        cell_HW = timed("cells", cells, truth_HW)
        counted = timed("levels", levels, map_HW, cell_HW)
        timed("weighted F", weighted_f.weighted_f, counted.values_HW, around, 1e-9)
        timed("all measures", metrics._score, counted, around, 0.0, metrics.PYSODMETRICS)
        both = [map_HW, centre(*truth_HW.shape)]
        timed("two maps, all but decoding", metrics.score_each, both, truth_HW)
        timed("pysodmetrics", library, map_HW, mask_HW)
    result = {part: round(1000 * statistics.mean(taken), 2) for part, taken in seconds.items()}
    print(result)
    write_json(args.out, {**describe_machine(), "cpu_ms": result})


if __name__ == "__main__":
    main()
