"""Training data for `gpu_train.py`, and the processes in which it measures."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from a2s.data.images import encode_png
from a2s.data.index import Index
from a2s.data.shards import ShardWriter
from a2s.data.synthetic import draw_scene

HERE = Path(__file__).parent


class CellError(Exception):
    """A measurement failed; the message contains its output."""


def cell(**what: Any) -> dict[str, Any]:
    """Run a measurement in its own process, with fresh memory, caches and flags."""
    command = [sys.executable, str(HERE / "gpu_cell.py"), json.dumps(what, default=str)]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"}
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CellError(f"{what}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result["wall_sec"] = round(time.perf_counter() - start, 1)
    return result


def make_images(root: Path, *, count: int, side: int, num_scenes: int, seed: int = 0) -> None:
    """Make JPEGs and rough masks: a few drawn scenes, mirrored, shifted and dimmed."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    num_scenes = min(num_scenes, count)
    make = functools.partial(_make_images, root, count, side, num_scenes, seed)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(make, range(num_scenes)))


def _make_images(root: Path, count: int, side: int, num_scenes: int, seed: int, first: int) -> None:
    """Draw a scene and make images from it."""
    scene = draw_scene(seed=seed, index=first, side_px=side)
    for number in range(first, count, num_scenes):
        image, mask = scene.image_HW3, scene.mask_HW
        if number >= num_scenes:
            rng = np.random.default_rng((seed, number))
            shift = rng.integers(0, side // 4, 2)
            image, mask = (np.roll(x, shift, (0, 1)) for x in (image, mask))
            image = np.clip(image * rng.uniform(0.7, 1.1), 0, 255).astype(np.uint8)
            if number // num_scenes % 2:
                image, mask = image[:, ::-1], mask[:, ::-1]
        # Like a pseudo label: correct except along the edge.
        mask = cv2.dilate(np.ascontiguousarray(mask), np.ones((7, 7), np.uint8))
        bgr = np.ascontiguousarray(image[..., ::-1])
        name = f"i{number:05d}"
        cv2.imwrite(str(root / "images" / f"{name}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(root / "masks" / f"{name}.png"), mask)


def make_truth(root: Path, *, count: int, side: int) -> None:
    """Make test scenes with exact masks, not used in training."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        scene = draw_scene(seed=1, index=number, side_px=side)
        bgr = np.ascontiguousarray(scene.image_HW3[..., ::-1])
        cv2.imwrite(str(root / "images" / f"t{number:04d}.jpg"), bgr)
        cv2.imwrite(str(root / "masks" / f"t{number:04d}.png"), scene.mask_HW)


def pack(root: Path) -> None:
    """Make data shards with `a2s shard`, and label shards from the masks."""
    settings = {"images": [root / "images"], "out": root / "data", "workers": 0}
    cell(kind="job", job="shard", settings=settings)
    (root / "labels").mkdir()
    index = Index.load(root / "data")
    for number, shard in enumerate(index.shards):
        with ShardWriter(
            root / "labels", shard.name, settings="drawn", num_shards=len(index.shards)
        ) as writer:
            for row in index.shard_rows(number):
                path = root / "masks" / f"{index.key(row)}.png"
                mask_HW = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
                writer.add(index.key(row), {"png": encode_png(mask_HW)})
