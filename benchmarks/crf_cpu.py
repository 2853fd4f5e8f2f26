"""Dense CRF on one core: numba compared with pydensecrf; and the median filter.

    taskset -c 1 python benchmarks/crf_cpu.py [--images 200] [--full-hd 20]

Input: photographs of the reference material ($A2S_SHARED); their masks, blurred and distorted, are
the rough label maps. The backends alternate in one process, eight images each. Ratios compare sums
of CPU time. Writes `benchmarks/results/crf_cpu.json`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from machine import describe_machine

from a2s.labels.crf import pydensecrf_backend
from a2s.labels.crf.energy import CrfParams, hard_energy
from a2s.labels.crf.numba_backend import inference
from a2s.labels.refine import median_filter
from a2s.storage.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2S_SHARED", ROOT.parent / "shared"))
PARAMS = CrfParams()
TURN = 8
START = """
import sys, time
started = time.perf_counter()
import numpy as np
from a2s.labels.crf import CrfParams, crf_of
from a2s.labels.crf.energy import hard_energy
image = np.random.default_rng(0).integers(0, 256, (320, 320, 3)).astype(np.uint8)
energy = hard_energy(image[..., 0].astype(np.float32), CrfParams())
ready = time.perf_counter()
crf = crf_of("numba")
chosen = time.perf_counter()
crf(image, energy, CrfParams())
called = time.perf_counter()
crf(image, energy, CrfParams())
again = time.perf_counter()
print(chosen - ready, (called - chosen) - (again - called))
"""

MEMORY = """
import sys
import numpy as np
from a2s.labels.crf import CrfParams, crf_of
def peak_kib():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
data = np.load(sys.argv[1])
image, energy = data["image"], data["energy"]
crf = crf_of("numba")
crf(image[:64, :64].copy(), energy[:, :4096].copy(), CrfParams())
before = peak_kib()
crf(image, energy, CrfParams())
print((peak_kib() - before) // 1024)
"""


def photographs(count: int, size: tuple[int, int] | None) -> Iterator[tuple[np.ndarray, ...]]:
    """Load images and energies; `size` is (width, height), None the image's own."""
    paths = sorted((SHARED / "data" / "ecssd200" / "images").glob("*.jpg"))
    for path in paths[:: max(1, len(paths) // count)][:count]:
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        truth = cv2.imread(str(path.parents[1] / "masks" / f"{path.stem}.png"), 0)
        mask = (truth > 127).astype(np.float32)
        if size is not None:
            how = cv2.INTER_AREA if image.shape[1] > size[0] else cv2.INTER_LINEAR
            image = cv2.resize(image, size, interpolation=how)
            mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
        noise = np.random.default_rng(int(path.stem)).standard_normal(mask.shape)
        noise = cv2.GaussianBlur(noise.astype(np.float32), (0, 0), 12)
        rough = cv2.GaussianBlur(mask, (0, 0), 15) + noise * (0.18 / noise.std())
        labels = (rough > 0.5).astype(np.float32)
        yield np.ascontiguousarray(image), hard_energy(labels, PARAMS)


def timed(function: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
    """Call a function; return its result, CPU seconds and wall seconds."""
    cpu, wall = time.thread_time(), time.perf_counter()
    result = function()
    return result, time.thread_time() - cpu, time.perf_counter() - wall


def compare(count: int, size: tuple[int, int] | None) -> dict[str, float]:
    """Run both backends alternately on the same photographs."""
    cpu, wall = np.zeros(2), np.zeros(2)
    different, overlap = [], []
    material = list(photographs(count, size))
    for first in range(0, len(material), TURN):
        masks: list[list[np.ndarray]] = [[], []]
        for which, crf in enumerate((pydensecrf_backend.crf, inference.crf)):
            for image, energy in material[first : first + TURN]:
                mask, cpu_sec, wall_sec = timed(lambda: crf(image, energy, PARAMS))  # noqa: B023
                masks[which].append(mask)
                cpu[which] += cpu_sec
                wall[which] += wall_sec
        for theirs, ours in zip(*masks, strict=True):
            different.append(int(np.count_nonzero(theirs != ours)))
            union = np.count_nonzero(theirs | ours)
            overlap.append(np.count_nonzero(theirs & ours) / union if union else 1.0)
    return {
        "images": len(material),
        "pydensecrf_cpu_ms": round(1e3 * float(cpu[0]) / len(material), 2),
        "numba_cpu_ms": round(1e3 * float(cpu[1]) / len(material), 2),
        "ratio_cpu": round(float(cpu[0] / cpu[1]), 2),
        "ratio_wall": round(float(wall[0] / wall[1]), 2),
        "identical_masks": sum(count == 0 for count in different),
        "max_pixels_different": max(different),
        "min_iou": round(float(min(overlap)), 6),
    }


def start_up() -> dict[str, list[float]]:
    """Seconds to import numba, and the extra seconds of a process's first call."""
    result = {}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm", "warm_again"):
            done = subprocess.run(
                [sys.executable, "-c", START],
                env={**os.environ, "NUMBA_CACHE_DIR": cache},
                capture_output=True,
                text=True,
                check=True,
            )
            result[f"{name}_import_and_first_call_sec"] = [
                round(float(word), 2) for word in done.stdout.split()
            ]
    return result


def memory() -> int:
    """Peak memory in MiB that the first call on a 1920 x 1080 photograph adds."""
    with tempfile.TemporaryDirectory() as folder:
        for image, energy in photographs(1, (1920, 1080)):
            np.savez(Path(folder) / "case.npz", image=image, energy=energy)
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(Path(folder) / "case.npz")],
            capture_output=True,
            text=True,
            check=True,
        )
    return int(done.stdout)


def threads() -> float:
    """Speed-up by wall time of two threads with half the images each over one thread."""
    material = list(photographs(16, (320, 320)))

    def work(part: list[tuple[np.ndarray, ...]]) -> None:
        for _ in range(4):
            for image, energy in part:
                inference.crf(image, energy, PARAMS)

    ratios = []
    for _ in range(5):
        work(material[:2])
        started = time.perf_counter()
        work(material)
        alone = time.perf_counter() - started
        pair = [threading.Thread(target=work, args=(material[k::2],)) for k in range(2)]
        started = time.perf_counter()
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
        ratios.append(alone / (time.perf_counter() - started))
    return round(float(np.median(ratios)), 2)


def compare_median(size: tuple[int, int] | None) -> dict[str, float]:
    """Milliseconds of the median filter, window 7: by counting, and by `cv2.medianBlur`."""
    cpu = np.zeros(2)
    material = list(photographs(20, size))
    for _, energy in material:
        image_size = size or (energy.shape[1], 1)
        mask = (energy[0] > energy[1]).astype(np.uint8).reshape(image_size[::-1])
        expected, general_sec, _ = timed(lambda: cv2.medianBlur(mask, 7))  # noqa: B023
        counted, counted_sec, _ = timed(lambda: median_filter(mask, ksize=7))  # noqa: B023
        assert (expected == counted).all()
        cpu += general_sec, counted_sec
    general_ms, counted_ms = (1e3 * float(sec) / len(material) for sec in cpu)
    return {"opencv_ms": round(general_ms, 3), "counted_ms": round(counted_ms, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--full-hd", type=int, default=20)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    for image, energy in photographs(1, (320, 320)):
        inference.crf(image, energy, PARAMS)
    sizes = {"320x320": (320, 320), "400x300": (400, 300), "own": None}
    result = {**describe_machine(), "command": " ".join(["python", *sys.argv])}
    # Load from other processes slows the compiled code more than the library.
    result["load_average_before"] = os.getloadavg()[0]
    for name, size in sizes.items():
        result[name] = compare(arguments.images, size)
        print(name, result[name], flush=True)
    result["1920x1080"] = compare(arguments.full_hd, (1920, 1080))
    result["1920x1080"]["numba_memory_mib"] = memory()
    print("1920x1080", result["1920x1080"], flush=True)
    result["median"] = {name: compare_median(size) for name, size in sizes.items()}
    result["median"]["1920x1080"] = compare_median((1920, 1080))
    result["start_up"] = start_up()
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    result["two_threads_over_one"] = threads()
    result["load_average_after"] = os.getloadavg()[0]
    # Results depend on the load of the machine, so all runs are kept.
    path = ROOT / "benchmarks" / "results" / "crf_cpu.json"
    history = read_json(path) if path.exists() else {"runs": []}
    write_json(path, {**history, "runs": [*history["runs"], result]})
    print(result)


if __name__ == "__main__":
    main()
