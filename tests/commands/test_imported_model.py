"""Labels and predictions of an imported model equal those of the authors' network."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import authors_checkpoints as theirs
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from labelling_run import config as label_config
from labelling_run import encoded, write_data
from numpy.typing import NDArray
from PIL import Image

from a2s.commands import export_weights, import_weights, label, predict
from a2s.config.base import RefineConfig
from a2s.config.commands import ExportWeightsConfig, ImportWeightsConfig, PredictConfig
from a2s.data.images import resize_rgb
from a2s.data.index import Index
from a2s.data.transforms import normalise
from a2s.errors import A2SError, CheckpointError, ConfigError, WeightsError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files of 100 MB each; they are deleted after the tests."""
    path = tmp_path_factory.mktemp("imported")
    yield path
    shutil.rmtree(path)


def run_import(file: Path, out: Path) -> Path:
    assert import_weights.run(ImportWeightsConfig(file=file, out=out)) == 0
    return out


@pytest.fixture(scope="module")
def stage1(folder: Path) -> Path:
    torch.save(theirs.checkpoint(1), folder / "mnet.pth")
    return folder / "mnet.pth"


@pytest.fixture(scope="module")
def activation(stage1: Path, folder: Path) -> Path:
    return run_import(stage1, folder / "activation.safetensors")


@pytest.fixture(scope="module")
def detector(folder: Path) -> Path:
    torch.save(theirs.checkpoint(2), folder / "cornet.pth")
    return run_import(folder / "cornet.pth", folder / "detector.safetensors")


@torch.no_grad()
def taps_of(state: theirs.State, pixels_HW3: NDArray[np.uint8]) -> list[torch.Tensor]:
    small_SS3 = torch.from_numpy(
        resize_rgb(pixels_HW3, height=320, width=320, resize_filter="bicubic")
    )
    return theirs.encoded(state, normalise(small_SS3.permute(2, 0, 1)[None]))


def test_labels_are_those_of_the_authors_network(activation: Path, tmp_path: Path) -> None:
    """Without CRF and median, which have their own tests."""
    files = {f"a/{seed}": encoded(60, 80, seed=seed) for seed in (1, 2)}
    data = write_data(tmp_path / "data", [list(files.items())])
    recipe = RefineConfig(iterations=0, median=1)
    settings = label_config(activation, data, tmp_path / "labels", refine=recipe)
    assert label.run(settings) == 0
    labels, state = Index.load(settings.out), theirs.checkpoint(1)
    assert list(labels.rows_by_key()) == list(files)
    for key, row in labels.rows_by_key().items():
        taps = taps_of(state, np.array(Image.open(io.BytesIO(files[key]))))
        p = theirs.stage1_maps(state, taps, (60, 80), decoder="decoder.")[0].sigmoid()[0, 0]
        expected = ((p - p.min()) / (p.max() - p.min()) > 0.5).numpy()
        mask = np.array(Image.open(io.BytesIO(labels.read(row)))) > 0
        assert 0.05 < expected.mean() < 0.95
        assert (mask == expected).mean() > 0.999


def test_predictions_are_those_of_the_authors_network(detector: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    config = PredictConfig(
        model=detector, images=(str(tmp_path / "image.png"),), out=tmp_path / "preds", workers=0
    )
    assert predict.run(config) == 0
    state = theirs.checkpoint(2)
    logits = theirs.stage2_logits(state, taps_of(state, pixels), (320, 320), decoder="decoder.")
    enlarged = F.interpolate(logits, size=(50, 70), mode="bilinear", align_corners=False)
    expected = enlarged.sigmoid()[0, 0].numpy() * 255
    written = np.array(Image.open(tmp_path / "preds" / "image.png"), dtype=np.float64)
    assert expected.std() > 5
    assert np.abs(written - expected).max() < 1.01


def test_labels_come_from_a_detector_but_not_from_an_unconverted_checkpoint(
    detector: Path, stage1: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", [[("a", encoded(20, 30, seed=1))]])
    assert label.run(label_config(detector, data, tmp_path / "made")) == 0
    with pytest.raises(A2SError, match="a2s import-weights"):
        label.run(label_config(stage1, data, tmp_path / "labels"))


def test_an_unconverted_checkpoint_is_refused(activation: Path, tmp_path: Path) -> None:
    back = tmp_path / "back.safetensors"
    assert export_weights.run(ExportWeightsConfig(model=activation, out=back)) == 0
    data = write_data(tmp_path / "data", [[("a", encoded(20, 30, seed=1))]])
    with pytest.raises(CheckpointError, match="is of kind unknown"):
        label.run(label_config(back, data, tmp_path / "labels"))
    settings = {"images": (str(data),), "out": tmp_path / "preds", "workers": 0}
    with pytest.raises(CheckpointError, match="is not a model that a2s wrote"):
        predict.run(PredictConfig(model=back, **settings))
    with pytest.raises(WeightsError, match="no checkpoint of the authors"):
        run_import(activation, tmp_path / "again.safetensors")
    with pytest.raises(ConfigError, match=r"back\.safetensors is a file"):
        run_import(back, back / "in a file.safetensors")
