"""Refinement pool against one process: the same chunks, the same labels, images per second.

    python benchmarks/refine_pool.py [--images 200] [--workers 2]

Photographs of the reference material ($A2S_SHARED) where they are at hand, else rendered scenes.
The maps are made from the images' brightness: refinement is what is measured. Writes
`benchmarks/results/refine_pool.json`.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from machine import describe_machine
from PIL import Image

from a2s import pool
from a2s.data import images
from a2s.data.keys import encode_key
from a2s.data.scenes import draw_scene
from a2s.data.tars import Index, ShardWriter
from a2s.labelling import Activated, Chunk, Labelled, chunks, refine_chunk
from a2s.refine import CrfParams, Recipe, crf_of, energy_of
from a2s.rundir import write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
CHUNK = 8


def write_shard(folder: Path, num_images: int) -> str:
    photographs = sorted((SHARED / "data" / "msra1000").rglob("*.jpg"))[:num_images]
    with ShardWriter(folder, settings="benchmark", num_shards=1) as writer:
        for path in photographs:
            writer.add(encode_key(path.stem), {"jpg": path.read_bytes()})
        for index in range(num_images - len(photographs)):
            buffer = io.BytesIO()
            scene = draw_scene(seed=0, index=index, side_px=320)
            Image.fromarray(scene.image_HW3).save(buffer, "PNG")
            writer.add(f"scene{index}", {"png": buffer.getvalue()})
    return "MSRA-B photographs" if len(photographs) == num_images else "rendered scenes"


def brightness_maps(chunk: Chunk) -> Activated:
    thetas = {}
    for row in range(len(chunk.part)):
        small = images.resize_rgb(images.decode(chunk.part.read(row)), height=80, width=80)
        grey = cv2.GaussianBlur(small.mean(2).astype(np.float32), (0, 0), 3)
        thetas[row] = (grey - grey.mean()) / 10
    return Activated(thetas, {}, 0.0)


def build() -> object:
    return brightness_maps


def measure(index: Index, *, workers: int) -> tuple[float, list[Labelled]]:
    started = time.monotonic()
    results = list(
        pool.map_shards(
            refine_chunk,
            chunks(index, todo=[0], size=CHUNK),
            workers=workers,
            common=(Recipe(energy_of("hard"), crf_of("pydensecrf"), CrfParams()),),
            before=pool.Before(build),
        )
    )
    return time.monotonic() - started, sorted(results, key=lambda result: result.number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        source = write_shard(Path(name), arguments.images)
        index = Index.load(Path(name))
        alone_sec, alone = measure(index, workers=0)
        cold_sec, _ = measure(index, workers=arguments.workers)
        with pool.session(workers=arguments.workers):
            list(pool.map_shards(abs, range(8), workers=arguments.workers))
            warm_sec, pooled = measure(index, workers=arguments.workers)
    masks = [
        [label.png for part in run for label in part.labels.values()] for run in (alone, pooled)
    ]
    assert masks[0] == masks[1], "the pool made other labels than one process"
    result = {
        **describe_machine(),
        "num_images": arguments.images,
        "source": source,
        "workers": arguments.workers,
        "one_process_images_per_sec": round(arguments.images / alone_sec, 3),
        "pool_images_per_sec": round(arguments.images / warm_sec, 3),
        "ratio": round(alone_sec / warm_sec, 3),
        "ratio_with_start_of_ray": round(alone_sec / cold_sec, 3),
    }
    write_json(ROOT / "benchmarks" / "results" / "refine_pool.json", result)
    print(result)


if __name__ == "__main__":
    main()
