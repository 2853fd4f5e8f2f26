"""numba CRF with other threads, processes, CPUs, and after other images."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from repository import REPO

from a2s.labels.crf import pydensecrf_backend
from a2s.labels.crf.backends import crf_of
from a2s.labels.crf.energy import CrfParams, hard_energy, soft_energy
from a2s.labels.crf.numba_backend import inference
from a2s.labels.crf.numba_backend.inference import crf, foreground_probability

PARAMS = CrfParams()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def ramp(height: int, width: int) -> np.ndarray:
    slope = np.add.outer(2.0 * np.arange(height), 1.5 * np.arange(width))[..., None]
    return np.clip(slope + noise(height, width) % 9, 0, 255).astype(np.uint8)


def rough_map(height: int, width: int) -> np.ndarray:
    plane = np.random.default_rng(0).random((height, width)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(plane, (0, 0), 2.0))


def test_results_do_not_depend_on_earlier_images() -> None:
    image, p = ramp(120, 90), rough_map(120, 90)
    energy = hard_energy(p, PARAMS)
    image.setflags(write=False)
    energy.setflags(write=False)
    first = foreground_probability(image, energy, PARAMS).tobytes()
    for size in ((200, 210), (3, 3), (120, 90)):
        other = noise(*size)
        foreground_probability(other, soft_energy(rough_map(*size), PARAMS), PARAMS)
    narrow = replace(PARAMS, gaussian_sxy=1.0, bilateral_srgb=20.0)
    foreground_probability(image, energy, narrow)
    assert foreground_probability(image, energy, PARAMS).tobytes() == first
    with ThreadPoolExecutor(2) as threads:
        results = threads.map(lambda _: foreground_probability(image, energy, PARAMS), range(6))
        assert {result.tobytes() for result in results} == {first}
    assert not image.flags.writeable


def test_memory_does_not_grow_with_the_number_of_sizes() -> None:
    for height in range(20, 80):
        crf(ramp(height, 30), hard_energy(rough_map(height, 30), PARAMS), PARAMS)
    assert len(inference.kept_positions) <= inference.KEEP_POSITIONS
    assert inference.workspace_of_thread().num_bytes <= inference.KEEP_BYTES


def test_other_threads_run_concurrently() -> None:
    image = noise(400, 400)
    energy = hard_energy(rough_map(400, 400), PARAMS)
    crf(image, energy, PARAMS)
    ticks, done = 0, threading.Event()

    def work() -> None:
        crf(image, energy, replace(PARAMS, iterations=100))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    # One call of compiled code takes most of the time: with the lock held, hardly any tick.
    assert ticks > 50


def test_backend_is_imported_only_when_chosen() -> None:
    code = (
        "import sys, a2s.labels.crf; assert 'numba' not in sys.modules;"
        "a2s.labels.crf.crf_of('numba'); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
    assert crf_of("numba") is crf


ELSEWHERE = """
import sys
import numpy as np
from a2s.labels.crf import CrfParams, crf_of
from a2s.labels.crf.energy import hard_energy
data, params = np.load(sys.argv[1]), CrfParams()
mask = crf_of("numba")(data["image"], hard_energy(data["p"], params), params)
sys.exit(0 if (mask == data["mask"]).all() else 3)
"""


def run_elsewhere(tmp_path: Path, root: Path, **environment: str) -> subprocess.Popen[bytes]:
    image, p = ramp(70, 90), rough_map(70, 90)
    mask = pydensecrf_backend.crf(image, hard_energy(p, PARAMS), PARAMS)
    np.savez(tmp_path / "case.npz", image=image, p=p, mask=mask)
    return subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE, str(tmp_path / "case.npz")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )


@pytest.mark.slow
def test_baseline_cpu_and_concurrent_compilation(tmp_path: Path) -> None:
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    runs = [run_elsewhere(tmp_path, REPO, **plain) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    assert list((tmp_path / "cache").rglob("*.nbc"))
    assert run_elsewhere(tmp_path, REPO, **plain).wait() == 0


@pytest.mark.slow
def test_works_without_a_writable_cache(tmp_path: Path) -> None:
    shutil.copytree(REPO / "a2s", tmp_path / "a2s", ignore=shutil.ignore_patterns("__pycache__"))
    # A plain file in place of every folder numba could use, which also stops root.
    for folder in (tmp_path / "a2s").rglob("*"):
        if folder.is_dir():
            (folder / "__pycache__").write_text("")
    (tmp_path / "file").write_text("")
    nowhere = {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": str(tmp_path / "file" / "x")}
    assert run_elsewhere(tmp_path, tmp_path, **nowhere).wait() == 0


def test_no_compiled_function_calls_into_another_file() -> None:
    """Numba's cache does not notice when a function in another file has changed."""
    for path in (REPO / "a2s" / "refine" / "lattice").glob("*.py"):
        text = path.read_text("utf-8")
        if path.stem in {"packed", "positions", "wide", "meanfield"}:
            ours = [line for line in text.splitlines() if line.startswith("from a2s")]
            assert ours, path
            assert all(
                line.startswith("from a2s.labels.crf.numba_backend.jit ") for line in ours
            ), path
