"""How many images a second the pipeline of `label` on a GPU can carry, without a GPU.

    python benchmarks/label_pipeline.py [--images 16000] [--cores 16] [--readers 16]

`label_shards` runs as for a GPU, with its threads, chunks of 64 and label shards; its stages sleep
for as long as they were measured (`STAGE_MS`). So what is left is the pipeline: threads that wait
for each other, locks, the interpreter. Besides images per second it reports the CPU time of this
process per image, which one interpreter's lock limits to one core. Ways:

    one GPU          network and CRF take turns in the one thread of a GPU: 1,566 images/s at most
    a faster GPU     both take half as long: 3,133 images/s at most
    no GPU time      neither takes time

Writes `benchmarks/results/label_pipeline.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine
from plan_scale import synthesise

from a2s.config.base import RefineConfig
from a2s.config.commands import LabelConfig
from a2s.data.chunks import Chunk
from a2s.data.index import Index
from a2s.labels.making import all_shards, chunk, gpu, timing
from a2s.labels.making.chunk import Packed
from a2s.labels.quality import Quality
from a2s.labels.refine import Refined
from a2s.models import saved
from a2s.models.bundled import find_model
from a2s.parallel.gpu_thread import DeviceThread
from a2s.storage import run_folder

RESULT = Path(__file__).resolve().parent / "results" / "label_pipeline.json"
STAGE_MS = {"network": 1000 / 3832, "crf": 1000 / 2649, "decode": 3.0, "energy": 1.0}
"""Per image: of the network at batch 64 (label_gpu.json), of the CRF (crf_gpu.json), and of the CPU
of a photograph of 400 px."""
STAGE_MS |= {"refine": 2.73, "write": 1.9}
"""The rest on the CPU, from label_gpu.json."""
WAYS = {"one GPU": 1.0, "a faster GPU": 0.5, "no GPU time": 0.0}
CHUNK, SHARD = 64, 1000
HEIGHT, WIDTH = 300, 400
CPU = torch.device("cpu")
QUALITY = Quality(0.9, False, 0.2, 0.0, 0.4, 0.3, 0.9, 1, 0.9, 0.9, 0.95, 0.8, False)


def sleep_ms(milliseconds: float) -> None:
    if milliseconds:
        time.sleep(milliseconds / 1000)


@dataclass
class Network:
    """A network on a GPU whose work takes time and nothing else."""

    thread: DeviceThread
    share: float
    device: torch.device = CPU

    def call(self, function: Callable[[], Any]) -> Any:
        """Run in the thread of the GPU."""
        return self.thread(function)

    def maps(self, image_BSS3: np.ndarray) -> np.ndarray:
        """Activation maps that say nothing. Shape: B S S 3 -> B h w."""
        sleep_ms(STAGE_MS["network"] * self.share * len(image_BSS3))
        return np.zeros((len(image_BSS3), 80, 80), np.float32)


def replace_stages(share: float) -> None:
    """Let every stage sleep; `share` is that of the GPU's measured times."""
    image_HW3 = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    small_SS3 = np.zeros((320, 320, 3), np.uint8)
    mask = Packed.of(np.zeros((HEIGHT, WIDTH), bool))
    p_ST = np.zeros((HEIGHT, WIDTH), np.float32)
    label_HW, png = np.zeros((HEIGHT, WIDTH), np.uint8), bytes(1500)

    def decode(self: Chunk, row: int) -> np.ndarray:
        sleep_ms(STAGE_MS["decode"])
        return image_HW3

    def energy_of(theta_hw: np.ndarray, **size: Any) -> np.ndarray:
        sleep_ms(STAGE_MS["energy"])
        return p_ST

    def crf_masks(images: list[Any], logits: list[Any], *rest: Any) -> list[Packed]:
        sleep_ms(STAGE_MS["crf"] * share * len(images))
        return [mask] * len(images)

    def refined(*rest: Any, **more: Any) -> Refined:
        sleep_ms(STAGE_MS["refine"])
        return Refined(label_HW, QUALITY)

    def encode_png(mask_HW: np.ndarray) -> bytes:
        sleep_ms(STAGE_MS["write"])
        return png

    Chunk.decode = decode  # type: ignore[method-assign]
    saved.NetworkInput.resize = lambda self, image: small_SS3  # type: ignore[method-assign]
    gpu.probability, gpu.crf_masks = energy_of, crf_masks
    gpu.thumbnail = lambda image: image[:96, :96]
    gpu.on_gpu_or_cpu = lambda *rest, **more: Network(DeviceThread(), share)
    chunk.probability = lambda *rest, **more: p_ST
    chunk.median_and_quality, chunk.images.encode_png = refined, encode_png
    all_shards.pool.has_gpu = lambda address=None: True


def carry(data: Path, out: Path, share: float) -> dict[str, float]:
    """Images per second, and CPU milliseconds of this process per image."""
    replace_stages(share)
    index = Index.load(data)
    config = LabelConfig(
        data=data,
        model="bundled",
        out=out,
        workers=0,
        batch_size=CHUNK,
        refine=RefineConfig(backend="torch"),
    )
    real_energy = all_shards.recipe_of
    zeros_N = np.zeros(HEIGHT * WIDTH, np.float32)

    def recipe(*rest: Any, **more: Any) -> Any:
        return dataclasses.replace(
            real_energy(*rest, **more), energy=lambda p, params: (zeros_N, zeros_N)
        )

    all_shards.recipe_of = recipe
    model = find_model("bundled-activation")[0]
    with run_folder.claim(out, command="label", config=config, inputs={}) as folder:
        work = all_shards.LabelJob(config, index, model, list(range(len(index.shards))))
        wall, cpu = time.monotonic(), time.process_time()
        all_shards.label_shards(work, folder)
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    all_shards.recipe_of = real_energy
    return {
        "images_per_sec": round(len(index) / wall, 1),
        "cpu_ms_per_image": round(cpu / len(index) * 1000, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16_000)
    parser.add_argument("--cores", type=int, default=16)
    parser.add_argument("--readers", type=int, default=16, help="threads that read and decode")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    all_shards.pool.num_cpus = lambda: args.cores
    gpu.PREFETCH_THREADS = timing.PREFETCH_THREADS = args.readers
    result: dict[str, Any] = {
        "command": f"python benchmarks/label_pipeline.py --images {args.images} "
        f"--cores {args.cores} --readers {args.readers}",
        **describe_machine(),
        "stage_ms_per_image": {name: round(ms, 3) for name, ms in STAGE_MS.items()},
        "ways": {},
    }
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "data").mkdir()
        synthesise(work / "data", num_keys=args.images, shard_size=SHARD)
        for number, (way, share) in enumerate(WAYS.items()):
            found = carry(work / "data", work / f"labels{number}", share)
            result["ways"][way] = {**found, "load_average": round(os.getloadavg()[0], 1)}
            print(way, result["ways"][way], flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
