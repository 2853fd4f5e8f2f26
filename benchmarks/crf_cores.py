"""Throughput of both CPU backends of the dense CRF on one core and on several.

    python benchmarks/crf_cores.py [--images 64] [--rounds 5]

Input: photographs of the reference material ($A2S_SHARED) at their own sizes, or drawn scenes, with
rough label maps. Every round measures all variants in turn: processes for both backends, as Ray
starts them, and threads of one process for numba, as with `--workers 0`. Reports images/s by wall
time without start-up, for the best round and for all. Writes `benchmarks/results/crf_cores.json`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import cv2
from crf_material import pictures
from machine import describe_machine

from a2s.data.arrays import F32, U8
from a2s.labels.crf.backends import crf_of
from a2s.labels.crf.energy import CrfParams, hard_energy
from a2s.storage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
RESULT = ROOT / "benchmarks" / "results" / "crf_cores.json"
PARAMS = CrfParams()
WORK: list[tuple[U8, tuple[F32, F32]]] = []
"""Images and energies, inherited by forked processes."""


def refine(backend: str, number: int) -> int:
    """Run the CRF and return the number of foreground pixels."""
    image_HW3, energy = WORK[number]
    return int(crf_of(backend)(image_HW3, energy, PARAMS).sum())  # type: ignore[arg-type]


def wall_sec(pool: Executor, backend: str) -> tuple[float, list[int]]:
    started = time.perf_counter()
    areas = list(pool.map(refine, [backend] * len(WORK), range(len(WORK))))
    return time.perf_counter() - started, areas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    cv2.setNumThreads(1)
    root = SHARED / "data" / "ecssd200"
    folders = (root / "images", root / "masks") if root.is_dir() else (None, None)
    source, found = pictures(*folders, num_images=args.images, side=320)
    for image_HW3, truth_HW in found:
        rough_HW = cv2.GaussianBlur(truth_HW, (0, 0), 9) * 0.8 + 0.1
        WORK.append((image_HW3, hard_energy(rough_HW, PARAMS)))

    fork = multiprocessing.get_context("fork")
    pools: dict[str, tuple[str, Executor]] = {}
    for backend in ("numba", "pydensecrf"):
        for count in sorted({1, cores}):
            pool = ProcessPoolExecutor(count, mp_context=fork)
            pools[f"{backend}, {count} process{'es' * (count > 1)}"] = backend, pool
    pools[f"numba, {cores} threads"] = "numba", ThreadPoolExecutor(cores)
    seconds: dict[str, list[float]] = {way: [] for way in pools}
    seen: dict[str, list[int]] = {}
    # Warm-up: the first round starts processes and compiles.
    for number in range(args.rounds + 1):
        for way, (backend, pool) in pools.items():
            sec, seen[way] = wall_sec(pool, backend)
            seconds[way] += [sec] if number else []
    for _, pool in pools.values():
        pool.shutdown()
    numba = [areas for way, areas in seen.items() if way.startswith("numba")]
    assert all(areas == numba[0] for areas in numba)

    rates = {way: len(WORK) / min(values) for way, values in seconds.items()}
    result = {
        "command": f"python benchmarks/crf_cores.py --images {args.images} --rounds {args.rounds}",
        **describe_machine(),
        "source": f"{source}, own size",
        "images_per_sec": {way: round(rate, 2) for way, rate in rates.items()},
        "images_per_sec_by_round": {
            way: [round(len(WORK) / sec, 2) for sec in values] for way, values in seconds.items()
        },
        "numba_over_pydensecrf": {
            str(count): round(
                rates[f"numba, {count} process{'es' * (count > 1)}"]
                / rates[f"pydensecrf, {count} process{'es' * (count > 1)}"],
                2,
            )
            for count in sorted({1, cores})
        },
    }
    write_json(args.out, result)
    print(result)


if __name__ == "__main__":
    main()
