"""Labels at the images' own size, and as the model says: ties, filters, boundaries."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from labelling_run import config, encoded, shard_bytes, write_data
from processes import pack
from safetensors.torch import save_file

from a2s.commands import estimate, label
from a2s.config.base import RefineConfig
from a2s.config.commands import EstimateConfig, LabelConfig
from a2s.data import images
from a2s.data.index import Index
from a2s.data.transforms import normalise
from a2s.errors import ConfigError
from a2s.labels.crf.energy import binarise
from a2s.labels.making import all_shards
from a2s.labels.recipe import recipe_of
from a2s.labels.refine import probability, refine, sign, working_size
from a2s.models import boundary
from a2s.models.activation_net import ActivationNet
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.inference import on_cpu
from a2s.models.saved import SavedNetwork
from a2s.parallel import pool

SIZES = [(70, 50), (51, 71), (70, 50), (33, 90), (1, 40)]
OWN = {"parity": {"network_size": "own"}, "refine": RefineConfig(max_side=None)}


def write_model(path: Path, **settings: object) -> Path:
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    network = ActivationNet(encoder, fusion_stride=2, **settings)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, {**network.spec(), "image_size": "64", "resize_filter": "bicubic"})
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors", sign_tie=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [(f"a/{n}", encoded(*size, seed=n + 1)) for n, size in enumerate(SIZES)]
    return write_data(tmp_path_factory.mktemp("sizes") / "data", [samples[:3], samples[3:]])


@pytest.fixture(scope="module")
def own(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sizes") / "labels"
    assert label.run(config(model, data, out, **OWN)) == 0
    return out


def test_the_network_sees_every_image_as_it_is(model: Path, data: Path, own: Path) -> None:
    """Labels are those of maps at half the image's own size, without a square in between."""
    network = on_cpu(SavedNetwork.find(model)).network
    index, labels = Index.load(data), Index.load(own)
    recipe = recipe_of(RefineConfig(backend="numba", max_side=None), sign_tie=0)
    assert len(labels) == len(SIZES)
    for row in range(len(index)):
        image_HW3 = images.decode(index.read(row))
        with torch.inference_mode():
            x_13HW = normalise(torch.from_numpy(image_HW3).permute(2, 0, 1)[None])
            theta_hw = network(x_13HW).theta[0, 0].numpy()
        height, width = image_HW3.shape[:2]
        assert theta_hw.shape == (-(-height // 2), -(-width // 2))
        mask_HW = images.decode_mask(labels.read(row))
        np.testing.assert_array_equal(mask_HW, refine(image_HW3, theta_hw, recipe=recipe).mask_HW)
    assert any((images.decode_mask(labels.read(row)) > 0).any() for row in range(len(labels)))


def test_own_size_is_another_label_set(model: Path, data: Path, own: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"parity\.network_size: own there, trained now"):
        label.run(config(model, data, own, refine=RefineConfig(max_side=None)))
    with pytest.raises(ConfigError, match=r"refine\.max_side: None there, 640 now"):
        label.run(config(model, data, own, parity={"network_size": "own"}))
    resized = tmp_path / "resized"
    assert label.run(config(model, data, resized, refine=RefineConfig(max_side=None))) == 0
    assert shard_bytes(resized) != shard_bytes(own)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_devices_group_images_by_size_and_make_the_same_labels(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    settings = {**OWN, "refine": RefineConfig(max_side=None, backend=backend)}
    assert label.run(config(model, data, tmp_path / "alone", **settings)) == 0
    monkeypatch.setattr(pool, "has_gpu", lambda address: True)
    device = config(model, data, tmp_path / "device", **{**settings, "batch_size": "auto"})
    assert label.run(device) == 0
    assert shard_bytes(tmp_path / "device") == shard_bytes(tmp_path / "alone")


def test_images_of_one_size_share_a_forward_pass() -> None:
    from a2s.labels.making.gpu import of_one_size

    pictures = {row: np.zeros((*size, 3), np.uint8) for row, size in enumerate(SIZES)}
    assert of_one_size(pictures) == [[0, 2], [1], [3], [4]]
    square = {row: np.zeros((64, 64, 3), np.uint8) for row in (3, 5, 6)}
    assert of_one_size(square) == [[3, 5, 6]]


def test_the_largest_image_decides_what_a_device_takes(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for n, size in enumerate(SIZES):
        (tmp_path / "photos" / f"{n}.png").write_bytes(encoded(*size, seed=n + 1))
    data, saved = pack(tmp_path / "photos", tmp_path / "data"), SavedNetwork.find(model)
    for network_size, pixels in {"own": 51 * 71, "trained": 64 * 64}.items():
        settings = LabelConfig(
            model=model, data=data, out=data, parity={"network_size": network_size}
        )
        assert all_shards.LabelJob(settings, Index.load(data), saved, [0, 1]).most_pixels == pixels


def test_an_estimate_takes_the_same_choices(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = EstimateConfig(data=data, model=model, workers=0, sample=4, **OWN)
    assert estimate.run(settings) == 0
    assert "core-hours" in capsys.readouterr().out


def test_no_largest_side_leaves_every_size() -> None:
    assert working_size(3000, 4001, max_side=None) == (3000, 4001)
    assert RefineConfig(max_side=None).max_side is None


@pytest.mark.parametrize(("tie", "foreground"), [(1, 0.5), (0, 0.0)])
def test_a_tie_without_a_side_has_no_foreground(tie: int, foreground: float) -> None:
    theta_hw = np.where(np.arange(8) < 4, 2.0, -2.0).astype(np.float32).reshape(1, 8)
    theta_hw = np.repeat(theta_hw, 8, axis=0)
    assert sign(theta_hw, tie=tie) == (tie, 0.5)
    p_HW = probability(theta_hw, height=8, width=8, tie=tie)
    theta_B1hw = torch.from_numpy(theta_hw)[None, None]
    expected = (theta_B1hw * boundary.sign(theta_B1hw, tie=tie)).sigmoid()[0, 0]
    np.testing.assert_allclose(p_HW, expected.numpy(), atol=1e-6)
    assert binarise(p_HW).mean() == foreground
    recipe = recipe_of(RefineConfig(backend="numba", median=1), sign_tie=tie)
    image_HW3 = np.repeat(np.where(theta_hw > 0, 200, 20).astype(np.uint8)[..., None], 3, axis=2)
    refined = refine(image_HW3, theta_hw, recipe=recipe)
    assert (refined.mask_HW > 0).mean() == foreground
    assert refined.quality.sign_margin == 0


def test_the_boundary_itself_counts_as_below_where_a_tie_has_no_side() -> None:
    theta_hw = np.array([[1, 1, 1, 0, 0, -1, -1, -1]], np.float32)
    assert sign(theta_hw, tie=1) == (-1, 5 / 8)
    assert sign(theta_hw, tie=0) == (1, 3 / 8)


def test_the_model_decides_about_ties_and_filters(model: Path, tmp_path: Path) -> None:
    saved = SavedNetwork.find_for_labels(model)
    assert saved.sign_tie == 0
    image_HW3 = images.decode(encoded(90, 70, seed=5))
    found = saved.trained_input.resize(image_HW3)
    resize = functools.partial(images.resize_rgb, image_HW3, height=64, width=64)
    np.testing.assert_array_equal(found, resize(resize_filter="bicubic"))
    assert (found != resize()).any()


@pytest.mark.parametrize("boundary", ["db1", "db2", "db3", "db4"])
def test_labels_are_made_by_the_boundary_that_was_trained(
    boundary: str, model: Path, data: Path, tmp_path: Path
) -> None:
    other = write_model(tmp_path / "model.safetensors", boundary=boundary)
    assert label.run(config(other, data, tmp_path / "labels")) == 0
    network, reference = (on_cpu(SavedNetwork.find(path)).network for path in (other, model))
    assert network.heads[0].boundary == boundary
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert not torch.allclose(network(image).theta, reference(image).theta)
