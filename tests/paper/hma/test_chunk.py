"""One chunk of `a2s hma` on a device: batches give every image what it gets alone."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_average_run import SIDE, pack_photographs
from safetensors.torch import save_file

from a2s.data.index import Index
from a2s.labels.crf.backends import marginal_of
from a2s.labels.crf.energy import soft_energy
from a2s.labels.crf.torch_backend import inference
from a2s.labels.store.reader import LabelSource
from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.inference import on_cpu
from a2s.models.saved import SavedNetwork
from a2s.paper.hma import rule
from a2s.paper.hma.chunk import (
    HmaPass,
    HmaWorker,
    LabelledChunk,
    batched_marginals,
    labelled_chunks,
    read_input,
    update_chunk,
    update_with,
)
from a2s.parallel.gpu_thread import DeviceThread


@pytest.fixture(scope="module")
def case(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[HmaPass, LabelledChunk]:
    """What a pass with the CRF in torch has in common, and four photographs."""
    root = tmp_path_factory.mktemp("averaging")
    data = pack_photographs(shared, root)
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    network = Detector(encoder, width=32)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(
        tensors,
        root / "model.safetensors",
        {**network.spec(), "image_size": str(SIDE), "resize_filter": "bilinear"},
    )
    index, labels = Index.load(data), Index.load(root / "labels")
    previous = LabelSource(labels, labels.rows_of(index.keys), root, SIDE, [0])
    stores = root / "averages", root / "labels"
    saved = SavedNetwork.find(root / "model.safetensors")
    hma_pass = HmaPass(saved, saved.trained_input, "torch", previous, *stores, 1)
    return hma_pass, next(labelled_chunks(index, np.ones(len(index), bool)))


def into(hma_pass: HmaPass, folder: Path) -> HmaPass:
    for store in ("averages", "labels"):
        (folder / store).mkdir(parents=True)
    return dataclasses.replace(hma_pass, averages=folder / "averages", labels=folder / "labels")


def test_a_chunk_as_a_gpu_does_it_has_the_same_bytes(
    case: tuple[HmaPass, LabelledChunk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hma_pass, chunk = case
    alone = into(hma_pass, tmp_path / "alone")
    update_chunk(chunk, alone)

    crfs, readers = [], []

    def counted(images: Any, *rest: Any, **options: Any) -> list[torch.Tensor]:
        at = threading.current_thread().name.split("_")[0]
        crfs.append((len(images), options["max_bytes"], at))
        return crf_torch_marginals(images, *rest, **options)

    def previous(row: int, epoch: int) -> np.ndarray:
        readers.append(threading.current_thread().name.split("_")[0])
        return hma_pass.previous(row, epoch)

    crf_torch_marginals = inference.marginals
    monkeypatch.setattr(inference, "marginals", counted)
    model = dataclasses.replace(on_cpu(hma_pass.model), batch_shapes="one", thread=DeviceThread())
    with ThreadPoolExecutor(2, "prefetch") as prefetch:
        batch = dataclasses.replace(into(hma_pass, tmp_path / "batch"), previous=previous)
        update_with(HmaWorker(model, prefetch.map, 2**29), batch, chunk)
    assert crfs == [(4, 2**29, "a2s-device")] * 2
    assert readers == ["prefetch"] * 4
    for store in ("averages", "labels"):
        name = f"{store}/{chunk.file(1)}"
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "batch" / name).read_bytes()


def test_crfs_of_a_batch_are_bit_by_bit_those_of_its_images(
    case: tuple[HmaPass, LabelledChunk],
) -> None:
    hma_pass, chunk = case
    images = [read_input(hma_pass, chunk, row) for row in chunk.rows]
    averages = [hma_pass.previous(row, 1) for row in chunk.rows]
    rng = np.random.default_rng(0)
    probabilities = [rng.random((SIDE, SIDE), np.float32) for _ in images]

    marginals = batched_marginals(
        torch.from_numpy(np.stack(images)), lambda function: function(), max_bytes=2**30
    )
    energies = [soft_energy(probability, rule.CRF) for probability in probabilities]
    marginal = marginal_of("torch")
    for found, image, energy in zip(marginals(energies), images, energies, strict=True):
        expected = marginal(image, energy, rule.CRF)
        assert torch.equal(torch.from_numpy(found), torch.from_numpy(expected))

    with ThreadPoolExecutor(3) as threads:
        pairs = rule.update_batch(probabilities, averages, marginals=marginals, each=threads.map)
    for pair, image, probability, average in zip(
        pairs, images, probabilities, averages, strict=True
    ):
        alone = rule.update(image, probability, average, marginal=marginal)
        for found, expected in zip(pair, alone, strict=True):
            assert torch.equal(torch.from_numpy(found), torch.from_numpy(expected))
