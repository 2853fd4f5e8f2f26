"""Quality and time of labels at several values of `refine.max_side`.

    python benchmarks/max_side.py --model RUN/stage1 --data DATA [--sides 160 240 320 400 640]

DATA are shards with masks. The network runs once per image. CRF and median then run at every size
in turn, so that other load on the machine affects all sizes equally. The IoU is relative to labels
made without reduction; sizes that reduce no image share them. `a2s label` keeps the CRF's widths in
pixels at every size, so a reduction makes them wider relative to the picture. Rows with
`widths_scaled` scale them along and show how much of the loss this causes. `--enlarge 3` enlarges
photographs (bicubic) and masks (nearest) first, to simulate larger ones. Writes
`benchmarks/results/max_side.json`, or `max_side_enlarged.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import numpy.typing as npt
import torch
from machine import describe_machine

from a2s.data import images
from a2s.data.arrays import U8
from a2s.data.index import Index
from a2s.data.transforms import normalise
from a2s.evaluation.metrics import score
from a2s.evaluation.pairs import find_truths
from a2s.labels.crf.backends import Backend, Crf, crf_of
from a2s.labels.crf.energy import CrfParams, energy_of
from a2s.labels.refine import Recipe, probability, refine
from a2s.models import saved

RESULTS = Path(__file__).parent / "results"


@dataclass
class Measured:
    """Measurements per image of labels made at one longest side (None: no reduction)."""

    side: int | None = None
    widths_scaled: bool = False
    iou: list[float] = field(default_factory=list)
    adaptive_f: list[float] = field(default_factory=list)
    mae: list[float] = field(default_factory=list)
    crf_sec: list[float] = field(default_factory=list)
    refine_sec: list[float] = field(default_factory=list)

    def params(self, *, longest: int) -> CrfParams:
        """CRF parameters, scaled from the images' own size if requested."""
        share = (self.side or longest) / longest if self.widths_scaled else 1.0
        wide = CrfParams()
        return replace(
            wide,
            gaussian_sxy=wide.gaussian_sxy * share,
            bilateral_sxy=wide.bilateral_sxy * share,
        )

    def add(self, mask_HW: U8, reference_HW: U8, truth_HW: npt.NDArray[np.bool_]) -> None:
        """Compare one label with the label at own size and with the truth."""
        mine, other = mask_HW > 0, reference_HW > 0
        union = np.count_nonzero(mine | other)
        self.iou.append(np.count_nonzero(mine & other) / union if union else 1.0)
        scores = score(mask_HW, truth_HW)
        self.adaptive_f.append(scores.adaptive_f)
        self.mae.append(scores.mae)

    def row(self) -> dict[str, object]:
        """Return the means over all images."""
        iou = np.array(self.iou)
        numbers = {
            "iou_with_own_size_mean": iou.mean(),
            "iou_with_own_size_5th_percentile": np.percentile(iou, 5),
            "iou_with_own_size_min": iou.min(),
            "adaptive_f": np.mean(self.adaptive_f),
            "mae": np.mean(self.mae),
            "crf_cpu_sec_per_image": np.mean(self.crf_sec),
            "refine_cpu_sec_per_image": np.mean(self.refine_sec),
        }
        return {
            "max_side": self.side or "own size",
            "widths_scaled": self.widths_scaled,
            "num_below_half_iou": int((iou < 0.5).sum()),
            **{name: round(float(value), 4) for name, value in numbers.items()},
        }


def clocked(crf: Crf, seconds: list[float]) -> Crf:
    """Wrap a CRF so that it appends the CPU time of every call to a list."""

    def measured(image_HW3: U8, energy_2N: object, params: CrfParams) -> object:
        started = time.process_time()
        mask_HW = crf(image_HW3, energy_2N, params)
        seconds.append(time.process_time() - started)
        return mask_HW

    return measured


@torch.inference_mode()
def theta_of(network: torch.nn.Module, image_HW3: U8, *, size: int) -> npt.NDArray[np.float32]:
    squashed = images.resize_rgb(image_HW3, height=size, width=size)
    image_13SS = normalise(torch.from_numpy(squashed).permute(2, 0, 1)[None])
    return network(image_13SS).theta[0, 0].float().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sides", type=int, nargs="+", default=[160, 240, 320, 400, 640])
    parser.add_argument("--crf", choices=get_args(Backend), default="pydensecrf")
    parser.add_argument("--enlarge", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    network, metadata = saved.load_model(args.model)
    index = Index.load(args.data)
    longest = args.enlarge * int(max(index.width_N.max(), index.height_N.max()))
    reducing = [side for side in args.sides if side < longest]
    measured = [
        Measured(),
        *(Measured(side, scaled) for scaled in (False, True) for side in reducing),
    ]
    unrefined, truths = Measured(), find_truths(args.data)
    recipes = [
        Recipe(
            energy_of("hard"),
            clocked(crf_of(args.crf), one.crf_sec),
            one.params(longest=longest),
            max_side=one.side or longest,
        )
        for one in measured
    ]
    for row in range(len(index)):
        image_HW3 = images.decode(index.read(row))
        key = index.key(row)
        assert key in truths.keys, f"{key} has no mask"
        mask_HW = images.decode_mask(truths.locate(key).read())
        if args.enlarge > 1:
            size = (args.enlarge * image_HW3.shape[1], args.enlarge * image_HW3.shape[0])
            image_HW3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_CUBIC)
            mask_HW = cv2.resize(mask_HW, size, interpolation=cv2.INTER_NEAREST)
        truth_HW = mask_HW > 128
        theta_hw = theta_of(network, image_HW3, size=int(metadata["image_size"]))
        masks = []
        for one, recipe in zip(measured, recipes, strict=True):
            started = time.process_time()
            masks.append(refine(image_HW3, theta_hw, recipe=recipe).mask_HW)
            one.refine_sec.append(time.process_time() - started)
        for one, mask_HW in zip(measured, masks, strict=True):
            one.add(mask_HW, masks[0], truth_HW)
        height, width = truth_HW.shape
        rough_HW = probability(theta_hw, height=height, width=width) > 0.5
        unrefined.add(rough_HW.astype(np.uint8) * np.uint8(255), masks[0], truth_HW)
        if (row + 1) % 20 == 0:
            print(f"{row + 1} of {len(index)} images", flush=True)

    rows = [one.row() for one in measured]
    name = "max_side.json" if args.enlarge == 1 else "max_side_enlarged.json"
    command = f"python benchmarks/max_side.py --model RUN/stage1 --data DATA --crf {args.crf}"
    command += f" --enlarge {args.enlarge}" if args.enlarge > 1 else ""
    result = {
        "command": f"{command} --sides {' '.join(map(str, args.sides))}",
        **describe_machine(),
        "load_average": round(os.getloadavg()[0], 1),
        "num_images": len(index),
        "longest_side_px": longest,
        "same_as_own_size": [side for side in args.sides if side >= longest],
        "rows": rows,
        "without_crf_and_median": {
            "iou_with_own_size_mean": round(float(np.mean(unrefined.iou)), 4),
            "adaptive_f": round(float(np.mean(unrefined.adaptive_f)), 4),
            "mae": round(float(np.mean(unrefined.mae)), 4),
        },
    }
    (RESULTS / name).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for line in rows:
        print(line)
    print(result["without_crf_and_median"])


if __name__ == "__main__":
    main()
