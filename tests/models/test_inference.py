"""Networks as labels and predictions use them: BatchNorm folded, convolutions by oneDNN."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from a2s.data.images import resize_rgb
from a2s.errors import A2SError, CheckpointError
from a2s.models import predict
from a2s.models.activation_net import ActivationNet
from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder, calibrate_batchnorm
from a2s.models.heads import ActivationMaps
from a2s.models.inference import InferenceModel, on_cpu, on_gpu_or_cpu
from a2s.models.prepare import fold_batchnorm, use_onednn
from a2s.models.saved import NetworkInput, SavedNetwork
from a2s.parallel.gpu_thread import DeviceThread


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "efficientnet_lite2"])
def test_folded_batchnorm_is_the_same_function(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name)
    calibrate_batchnorm(encoder)
    encoder.eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = encoder(image)
        fold_batchnorm(encoder)
        assert not [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
        folded = encoder(image)
        use_onednn(encoder)
        assert not [m for m in encoder.modules() if isinstance(m, nn.Conv2d)]
        for taps in (folded, encoder(image)):
            for found, tap in zip(taps, expected, strict=True):
                scale = float(tap.abs().max())
                torch.testing.assert_close(found, tap, rtol=1e-3, atol=1e-4 * scale)


def test_layouts_are_kept_and_do_not_change_what_comes_out() -> None:
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    fold_batchnorm(encoder.eval())
    use_onednn(encoder)
    layouts = [module for module in encoder.modules() if hasattr(module, "laid_out")]
    images = [torch.randn(1, 3, 16 * side, 24 * side) for side in range(1, 9)]
    with torch.inference_mode():
        expected = [encoder(image) for image in images]
        again = [encoder(image) for image in images]
        kept = [dict(module.laid_out) for module in layouts]
        encoder(images[-1])
    for taps, before in zip(again, expected, strict=True):
        assert all(torch.equal(tap, other) for tap, other in zip(taps, before, strict=True))
    assert layouts
    for module, before in zip(layouts, kept, strict=True):
        assert 1 <= len(module.laid_out) <= 4
        assert len(module.layout_of) <= len(images)
        assert all(module.laid_out[layout] is weight for layout, weight in before.items())


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_prepared_for_labels_it_makes_the_same_maps(stride: int) -> None:
    torch.manual_seed(stride)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    net = ActivationNet(encoder, fusion_stride=stride).eval()
    images = [torch.randn(1, 3, *size) for size in ((64, 96), (65, 33), (1, 1), (160, 160))]
    with torch.no_grad():
        expected = [net(image) for image in images]
    fold_batchnorm(net.encoder)
    use_onednn(net)
    with torch.inference_mode():
        for image, maps in zip(images, expected, strict=True):
            for found, theta in zip(net(image), maps, strict=True):
                torch.testing.assert_close(found, theta, rtol=1e-3, atol=2e-3)


def untrained(kind: str) -> ActivationNet | Detector:
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2")
    calibrate_batchnorm(encoder)
    network = Detector(encoder) if kind == "detector" else ActivationNet(encoder, fusion_stride=8)
    return network.eval()


def write(network: ActivationNet | Detector, path: Path, **metadata: str) -> Path:
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    spec = {**network.spec(), "image_size": "64", "resize_filter": "bilinear", **metadata}
    save_file(tensors, path, {key: value for key, value in spec.items() if value})
    return path


@pytest.mark.parametrize("load", ["label", "device", "predict"])
def test_what_a_training_set_does_not_change_what_inference_gives(
    load: str, tmp_path: Path
) -> None:
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = flags[0].allow_tf32, flags[0].benchmark, flags[1].allow_tf32
    saved = SavedNetwork.find(write(untrained("activation"), tmp_path / "model.safetensors"))
    try:
        flags[0].allow_tf32 = flags[0].benchmark = flags[1].allow_tf32 = True
        if load == "label":
            on_cpu(saved)
        elif load == "device":
            on_gpu_or_cpu(saved, batch_size=8)
        else:
            predict.load_step(saved, 10**6)
        after = flags[0].allow_tf32, flags[0].benchmark, flags[1].allow_tf32
        assert after == (False, False, False)
    finally:
        flags[0].allow_tf32, flags[0].benchmark, flags[1].allow_tf32 = before


def test_the_file_says_how_a_network_sees_images(tmp_path: Path) -> None:
    network, plain = untrained("activation"), tmp_path / "plain.safetensors"
    given = {"resize_filter": "bicubic", "sign_tie": "0"}
    saved = SavedNetwork.find(write(network, tmp_path / "model.safetensors", **given))
    assert (saved.kind, saved.image_size, saved.sign_tie) == ("activation", 64, 0)
    assert saved.trained_input == NetworkInput(64, "bicubic")
    image_HW3 = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    resized_SS3 = resize_rgb(image_HW3, height=64, width=64, resize_filter="bicubic")
    np.testing.assert_array_equal(saved.trained_input.resize(image_HW3), resized_SS3)
    assert NetworkInput(None).resize(image_HW3) is image_HW3
    with pytest.raises(CheckpointError, match="does not say with which resize_filter"):
        _ = SavedNetwork.find(write(network, plain, resize_filter="")).trained_input
    detector = SavedNetwork.find(write(untrained("detector"), tmp_path / "d.safetensors"))
    assert (detector.kind, detector.sign_tie) == ("detector", None)
    assert SavedNetwork.find_for_labels(detector.file) == detector


class Counted(nn.Module):
    """A network that notes the batches it sees, and whose memory holds `fits` images."""

    def __init__(self, network: ActivationNet | Detector, *, fits: int = 1000) -> None:
        super().__init__()
        self.network, self.fits, self.batch_sizes = network, fits, list[int]()
        self.encoder = network.encoder

    def forward(self, image_B3SS: torch.Tensor) -> object:
        if len(image_B3SS) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.batch_sizes.append(len(image_B3SS))
        output = self.network(image_B3SS)
        return output.theta if isinstance(output, ActivationMaps) else output


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (13, 64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("batch_shapes", "batch_size", "seen"),
    [
        *[("few", 10, [10, 4]), ("one", 10, [10, 10]), ("any", 10, [10, 3])],
        *[("few", 8, [8, 8]), ("few", 1, [1] * 13)],
    ],
)
def test_a_gpu_sees_few_shapes_and_no_image_the_others(
    batch_shapes: str, batch_size: int, seen: list[int], pixels: np.ndarray
) -> None:
    network = Counted(untrained("activation"))
    alone = InferenceModel(network).maps(pixels)
    network.batch_sizes.clear()
    model = InferenceModel(network, batch_size=batch_size, batch_shapes=batch_shapes)
    np.testing.assert_allclose(model.maps(pixels), alone, atol=1e-4)
    assert network.batch_sizes == seen


def test_a_batch_that_does_not_fit_is_halved(pixels: np.ndarray) -> None:
    model = InferenceModel(Counted(untrained("activation"), fits=2), batch_size=8)
    assert model.maps(pixels).shape == (13, 8, 8)
    assert model.batch_size == 2
    model = InferenceModel(Counted(untrained("activation"), fits=0), batch_size=8)
    with pytest.raises(A2SError, match="does not hold one image"):
        model.maps(pixels)


def test_saliency_is_the_sigmoid_of_a_detectors_logits(pixels: np.ndarray) -> None:
    model = InferenceModel(untrained("detector"), batch_size=4, batch_shapes="one")
    logits = model.saliency_logits(pixels)
    assert logits.shape == pixels.shape[:3]
    np.testing.assert_array_equal(logits, model.maps(pixels))
    expected = torch.from_numpy(logits).sigmoid().numpy()
    np.testing.assert_array_equal(model.saliency(torch.from_numpy(pixels)), expected)


def test_the_device_is_used_where_its_model_says() -> None:
    network = untrained("activation")
    here = threading.get_ident()
    assert InferenceModel(network).call(threading.get_ident) == here
    model = InferenceModel(network, thread=DeviceThread())
    assert model.call(threading.get_ident) == model.call(threading.get_ident) != here


def test_a_file_is_read_once_per_process(tmp_path: Path) -> None:
    saved = SavedNetwork.find(write(untrained("activation"), tmp_path / "m.safetensors"))
    assert on_cpu(saved).network is on_cpu(SavedNetwork.find(saved.file)).network
