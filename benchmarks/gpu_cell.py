"""One measurement of `gpu_train.py`, in its own process: `gpu_cell.py '{"kind": …}'`.

Prints its result as the last line, in JSON.
"""

from __future__ import annotations

import collections
import functools
import importlib
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import plain_train
import torch

from a2s.config import commands, training
from a2s.data.transforms import normalise
from a2s.evaluation import metrics
from a2s.models import saved
from a2s.models.activation_net import ActivationNet
from a2s.models.detector import Detector
from a2s.models.encoder_weights import load_encoder
from a2s.training import step
from a2s.training.losses import detection_loss_per_image, map_terms

SETTINGS = {
    "shard": commands.ShardConfig,
    "stage1": training.Stage1Config,
    "label": commands.LabelConfig,
    "stage2": training.Stage2Config,
}
# Synchronising calls in these files are ignored: they run before the loop and at commits.
IGNORED_FILES = {
    *("async_checkpoint.py", "file_cache.py", "module.py", "encoder_weights.py", "encoders.py")
}


def peak() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    return {"peak_device_mib": round(torch.cuda.max_memory_allocated() / 2**20)}


def job(cell: dict[str, Any]) -> dict[str, Any]:
    """Run a command of a2s; rates are those of its last epoch."""
    command, settings = cell["job"], cell["settings"]
    if cell.get("replayed"):
        step.compiled = functools.partial(step.compiled, replayed=True)  # type: ignore[assignment]
    found: collections.Counter[str] = collections.Counter()
    if cell.get("count_syncs") and torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("warn")
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        code = importlib.import_module(f"a2s.commands.{command}").run(SETTINGS[command](**settings))
    elapsed = time.perf_counter() - start
    assert code == 0, f"{command} ended with {code}"
    for warning in caught:
        if "synchronizing CUDA" in str(warning.message):
            found[f"{Path(warning.filename).name}:{warning.lineno}"] += 1
    result: dict[str, Any] = {"job_sec": round(elapsed, 2), **peak()}
    log = Path(settings["out"]) / "metrics.jsonl"
    if command in ("stage1", "stage2"):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        lines = [line for line in lines if line["epoch"] == lines[-1]["epoch"]]
        # Log lines cover different numbers of images; weight each by the time of its images.
        steps = np.diff([0, *(line["step"] for line in lines)])
        times = steps / [line["images_per_sec"] for line in lines]
        result["images_per_sec"] = round(float(steps.sum() / times.sum()), 1)
        waits = [line["data_wait_share"] for line in lines]
        result["data_wait_share"] = round(float(np.average(waits, weights=times)), 3)
    if cell.get("count_syncs"):
        in_loop = {
            at: count for at, count in found.items() if at.split(":")[0] not in IGNORED_FILES
        }
        result["synchronising_calls"] = sum(in_loop.values())
        result["where"] = dict(found.most_common(12))
    return result


def flops(cell: dict[str, Any]) -> dict[str, Any]:
    """Count FLOPs per image: forward and backward of trained parts, forward of the encoder."""
    from torch.utils.flop_counter import FlopCounterMode

    side = cell["side"]
    image = normalise(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    encoder = load_encoder(cell["encoder"], "none")
    with FlopCounterMode(display=False) as counter:
        encoder.eval()
        with torch.no_grad():
            taps = encoder(image)
    forward = counter.get_total_flops()
    blocks = ActivationNet(load_encoder(cell["encoder"], "none"), fusion_stride=4).heads[0]
    with FlopCounterMode(display=False) as counter:
        maps = blocks(*taps[2:], size=(side, side))
        terms = map_terms(maps, torch.ones(1, dtype=torch.bool), None, side=side, alpha=0.1)
        terms.numerator_K.sum().backward()
    stage1 = counter.get_total_flops()
    detector = Detector(encoder).eval()
    with FlopCounterMode(display=False) as counter:
        terms_B = detection_loss_per_image(detector(image), torch.zeros(1, 1, side, side))
        torch.stack(terms_B).sum().backward()
    stage2 = counter.get_total_flops()
    return {"encoder_forward": forward, "stage1_blocks": stage1, "stage2": stage2}


@torch.no_grad()
def scores(cell: dict[str, Any]) -> dict[str, Any]:
    """Score the last commit of a run on images with masks."""
    model, metadata = saved.load_model(Path(cell["model"]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    side, found = int(metadata["image_size"]), []
    for path in sorted(Path(cell["images"]).glob("*.jpg")):
        image_HW3 = cv2.imread(str(path))[..., ::-1]
        truth_HW = cv2.imread(f"{cell['masks']}/{path.stem}.png", cv2.IMREAD_GRAYSCALE) > 127
        small = cv2.resize(image_HW3, (side, side), interpolation=cv2.INTER_LINEAR)
        batch = torch.from_numpy(small.transpose(2, 0, 1).copy())[None].to(device)
        map_SS = model(normalise(batch)).sigmoid()[0, 0].cpu().numpy()
        map_HW = cv2.resize(map_SS, truth_HW.shape[::-1], interpolation=cv2.INTER_LINEAR)
        found.append(metrics.score(map_HW, truth_HW))
    return {
        "adaptive_f": round(float(np.mean([one.adaptive_f for one in found])), 4),
        "mae": round(float(np.mean([one.mae for one in found])), 4),
    }


def main() -> None:
    cell = json.loads(sys.argv[1])
    if cell["kind"] == "plain":
        result: dict[str, Any] = plain_train.run(cell, Path(cell["images"]), Path(cell["masks"]))
        result |= peak()
    else:
        result = {"job": job, "flops": flops, "scores": scores}[cell["kind"]](cell)
    print("\n" + json.dumps(result))


if __name__ == "__main__":
    main()
