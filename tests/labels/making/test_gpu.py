"""Networks and the CRF on a GPU whose memory is small, or full; the full GPU is played."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelling_run import write_model

from a2s.config.base import RefineConfig
from a2s.errors import A2SError
from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.torch_backend import inference
from a2s.labels.making import batch_size, chunk, gpu
from a2s.labels.recipe import recipe_of
from a2s.parallel import gpu_memory
from a2s.parallel.gpu_thread import DeviceThread


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def test_a_batch_that_does_not_fit_is_halved(model: Path) -> None:
    network = chunk.load_network(model)

    class Small(torch.nn.Module):
        """Raises what a full GPU raises."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, image_B3SS: torch.Tensor) -> object:
            if len(image_B3SS) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.inner(image_B3SS)

    pixels = torch.randint(0, 255, (7, 64, 64, 3), dtype=torch.uint8).numpy()
    place = gpu._Device(Small(), torch.device("cpu"), 8, DeviceThread(), None, True)
    assert gpu.in_batches(place, pixels).shape == (7, 16, 16)
    assert place.batch_size == 2

    class Full(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, image_B3SS: torch.Tensor) -> object:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(A2SError, match="does not hold one image"):
        gpu.in_batches(dataclasses.replace(place, network=Full()), pixels)


def test_a_crf_that_does_not_fit_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    real, largest = inference.crf_batch, 4 * 16 * 16 * inference.BYTES_PER_PIXEL
    asked: list[int] = []

    def small(images: Any, logits: Any, params: CrfParams, *, max_bytes: int) -> Any:
        asked.append(max_bytes)
        if max_bytes > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(images, logits, params, max_bytes=max_bytes)

    def full(images: Any, logits: Any, params: CrfParams, *, max_bytes: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    numbers = np.random.default_rng(0)
    shapes = [(16, 16), (8, 16), (16, 16), (12, 20)]
    pictures = [numbers.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    logits = [numbers.normal(size=shape).astype(np.float32) for shape in shapes]
    device = torch.device("cpu")
    place = gpu._Device(None, device, 1, DeviceThread(), None, True)
    given = gpu._pinned(pictures, device), gpu._pinned(logits, device)
    recipe = recipe_of(RefineConfig(backend="torch"))
    expected = gpu._refined(place, *given, recipe)
    monkeypatch.setattr(inference, "crf_batch", small)
    found = gpu._refined(place, *given, recipe)
    assert asked[0] > largest >= asked[-1]
    for mask, other in zip(found, expected, strict=True):
        assert np.array_equal(mask.unpacked(), other.unpacked())
    monkeypatch.setattr(inference, "crf_batch", full)
    with pytest.raises(A2SError, match="does not hold one image"):
        gpu._refined(place, *given, recipe)


def test_a_gpu_sees_few_shapes_and_no_image_the_others(model: Path) -> None:
    network, shapes = chunk.load_network(model), []

    class Seen(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network

        def forward(self, image_B3SS: torch.Tensor) -> object:
            shapes.append(len(image_B3SS))
            return self.inner(image_B3SS)

    pixels = np.random.default_rng(0).integers(0, 256, (13, 64, 64, 3), np.uint8)
    place = gpu._Device(Seen(), torch.device("cpu"), 10, DeviceThread(), None, True)
    found = gpu.in_batches(place, pixels)
    assert shapes == [10, 4]
    shapes.clear()
    varied = dataclasses.replace(place, one_size=False)
    np.testing.assert_allclose(gpu.in_batches(varied, pixels), found, atol=1e-4)
    assert shapes == [10, 3]
    alone = gpu.in_batches(dataclasses.replace(place, batch_size=1), pixels)
    np.testing.assert_allclose(found, alone, atol=1e-4)


def test_all_work_of_a_device_is_done_in_one_thread() -> None:
    device, seen = DeviceThread(), set()
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(device, lambda: seen.add(threading.get_ident())) for _ in range(20)]
        for one in asked:
            one.result()
        bad = threads.submit(device, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bad.result()
    assert len(seen) == 1
    assert threading.get_ident() not in seen


@pytest.mark.parametrize(("fits", "batch"), [(0, None), (1, 1), (2, 1), (8, 256)])
def test_the_batch_of_a_gpu_that_others_fill(
    fits: int, batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU says is played: this much memory per image, and room for `fits` of them."""
    peaks: list[int] = []

    def pretend(network: object, image_BSS3: np.ndarray) -> None:
        if len(image_BSS3) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        peaks.append(len(image_BSS3) * 2**20)

    monkeypatch.setattr(gpu_memory, "activate", pretend)
    monkeypatch.setattr(gpu_memory, "load_network", lambda model, device: None)
    for name, answer in {
        "is_available": lambda: True,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: peaks[-1],
        "mem_get_info": lambda: (2**40, 2**40),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    if batch is None:
        with pytest.raises(A2SError, match="does not hold one image"):
            batch_size.fitting_batch(Path("model"), 64, 64 * 64)
    else:
        assert batch_size.fitting_batch(Path("model"), 64, 64 * 64) == batch


def test_what_torch_keeps_for_later_is_free_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 10)
    assert gpu_memory.free_bytes(torch.device("cuda")) == 25


@pytest.mark.parametrize(
    ("free_gib", "image_mib", "batch"), [(70, 20, 256), (8, 200, 32), (1, 200, 4), (0.1, 200, 1)]
)
def test_memory_decides_the_batch(free_gib: float, image_mib: float, batch: int) -> None:
    found = batch_size.batch_for(free_gib * 2**30, bytes_per_image=image_mib * 2**20)
    assert found == batch
