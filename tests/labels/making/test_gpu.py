"""Networks and the CRF on a GPU whose memory is small, or full; the full GPU is played."""

from __future__ import annotations

import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from labelling_run import encoded, write_data, write_model

from a2s.config.base import RefineConfig
from a2s.data.chunks import chunks
from a2s.data.index import Index
from a2s.errors import A2SError
from a2s.labels.crf.energy import CrfParams
from a2s.labels.crf.torch_backend import inference
from a2s.labels.making import batch_size, gpu
from a2s.labels.recipe import recipe_of
from a2s.models.encoder_base import Encoder
from a2s.models.inference import InferenceModel
from a2s.models.saved import SavedNetwork
from a2s.parallel import gpu_memory
from a2s.parallel.gpu_thread import DeviceThread


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> SavedNetwork:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    return SavedNetwork.find_for_labels(write_model(path))


def test_a_crf_that_does_not_fit_is_done_in_parts(
    saved: SavedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, largest = inference.crf_batch, 4 * 16 * 16 * inference.BYTES_PER_PIXEL
    asked: list[int] = []

    def small(images: Any, logits: Any, params: CrfParams, *, max_bytes: int) -> Any:
        asked.append(max_bytes)
        if max_bytes > largest:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(images, logits, params, max_bytes=max_bytes)

    def full(images: Any, logits: Any, params: CrfParams, *, max_bytes: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    shapes = [(16, 16), (8, 16), (16, 16), (12, 20)]
    samples = [(f"{n}", encoded(*shape, seed=n + 1)) for n, shape in enumerate(shapes)]
    data = write_data(tmp_path / "data", [samples])
    (chunk,) = chunks(Index.load(data), todo=[0], size=8)
    recipe = recipe_of(RefineConfig(backend="torch"))
    activate = gpu.load_activation(saved, saved.trained_input, 8, recipe)

    expected = activate(chunk).masks
    monkeypatch.setattr(inference, "crf_batch", small)
    found = activate(chunk).masks
    assert asked[0] > largest >= asked[-1]
    assert found.keys() == expected.keys() == set(range(4))
    for row, mask in found.items():
        assert mask.unpacked().shape == shapes[row]
        assert np.array_equal(mask.unpacked(), expected[row].unpacked())
    monkeypatch.setattr(inference, "crf_batch", full)
    with pytest.raises(A2SError, match="does not hold one image"):
        activate(chunk)


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
    fits: int, batch: int | None, saved: SavedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU says is played: this much memory per image, and room for `fits` of them."""
    peaks: list[int] = []

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.encoder = Encoder(variant="torchvision")

        def forward(self, image_B3SS: torch.Tensor) -> torch.Tensor:
            if len(image_B3SS) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            peaks.append(len(image_B3SS) * 2**20)
            return image_B3SS

    model = InferenceModel(Small())
    monkeypatch.setattr(batch_size, "on_gpu_or_cpu", lambda saved, *, batch_size: model)
    for name, answer in {
        "is_available": lambda: True,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda: None,
        "max_memory_allocated": lambda: peaks[-1],
        "mem_get_info": lambda: (2**40, 2**40),
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    fitting = functools.partial(batch_size.fitting_batch, saved, 64 * 64)
    if batch is None:
        with pytest.raises(A2SError, match="does not hold one image"):
            fitting()
    else:
        assert fitting() == batch


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
