"""Effect of rounding in the CRF's input image: photograph, or normalised and restored.

    python benchmarks/crf_image.py --model RUN/stage1 --data DATA

The authors normalise an image for the network, undo this for the CRF and truncate the result to
eight bits. a2s gives the CRF the photograph. In float32 and float64 truncation lowers some values
by one. Every image is labelled with both inputs from the same map; the masks of DATA score both.
Writes
`benchmarks/results/crf_image.json`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine

from a2s.config.base import RefineConfig
from a2s.data import images
from a2s.data.index import Index
from a2s.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from a2s.evaluation.metrics import score
from a2s.evaluation.pairs import find_truths
from a2s.labels.recipe import recipe_of
from a2s.labels.refine import refine
from a2s.models.inference import InferenceModel
from a2s.models.saved import SavedNetwork

RESULTS = Path(__file__).parent / "results"


def restored(image_HW3: np.ndarray, *, dtype: type[np.floating]) -> np.ndarray:
    """Normalise, undo the normalisation, and truncate to eight bits."""
    mean, std = np.array(IMAGENET_MEAN, dtype), np.array(IMAGENET_STD, dtype)
    normalised_HW3 = ((image_HW3.astype(dtype) / dtype(255) - mean) / std).astype(np.float32)
    return ((normalised_HW3.astype(dtype) * std + mean) * dtype(255)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    saved, index = SavedNetwork.find_for_labels(args.model), Index.load(args.data)
    model, network_input = InferenceModel(saved.load()), saved.trained_input
    recipe = recipe_of(RefineConfig(backend="numba", max_side=None))
    rows: dict[str, dict[str, list[float]]] = {}
    truths = find_truths(args.data)
    for row in range(len(index)):
        image_HW3, key = images.decode(index.read(row)), index.key(row)
        assert key in truths.keys, f"{key} has no mask"
        truth_HW = images.decode_mask(truths.locate(key).read()) > 128
        theta_hw = model.maps(network_input.resize(image_HW3)[None])[0]
        made = {"photograph": image_HW3}
        made |= {
            f"restored {t.__name__}": restored(image_HW3, dtype=t) for t in (np.float32, np.float64)
        }
        labels = {
            name: refine(seen, theta_hw, recipe=recipe).mask_HW for name, seen in made.items()
        }
        for name, mask_HW in labels.items():
            ours, theirs = labels["photograph"] > 0, mask_HW > 0
            union = np.count_nonzero(ours | theirs)
            scores = score(mask_HW, truth_HW)
            values = {
                "share_of_values_one_lower": float((made[name] < image_HW3).mean()),
                "share_of_pixels_changed": float((ours != theirs).mean()),
                "iou_with_photograph": np.count_nonzero(ours & theirs) / union if union else 1.0,
                "adaptive_f": scores.adaptive_f,
                "mae": scores.mae,
            }
            for key, value in values.items():
                rows.setdefault(name, {}).setdefault(key, []).append(value)
    result = {
        "command": "python benchmarks/crf_image.py --model RUN/stage1 --data DATA",
        **describe_machine(),
        "num_images": len(index),
        "rows": {
            name: {
                **{key: round(float(np.mean(values)), 5) for key, values in columns.items()},
                "min_iou_with_photograph": round(min(columns["iou_with_photograph"]), 5),
            }
            for name, columns in rows.items()
        },
    }
    (RESULTS / "crf_image.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
