from __future__ import annotations

from pathlib import Path

import pytest
import torch

from a2s.models.detector import Detector, DetectorName
from a2s.models.encoders import build_encoder
from a2s.storage import tensors


def write_detector(file: Path, detector: DetectorName = "ram") -> Path:
    """Write an untrained detector, as stage 2 would."""
    torch.manual_seed(0)
    encoder = build_encoder("mobilenet_v2", variant="torchvision")
    network = Detector(encoder, detector=detector, width=16)
    metadata = {**network.spec(), "image_size": "64", "resize_filter": "bilinear"}
    tensors.write(file, network.state_dict(), metadata=metadata)
    return file


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("detector") / "detector.safetensors")


@pytest.fixture(scope="session")
def minet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("minet") / "minet.safetensors", "minet")


@pytest.fixture(scope="session")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the training scenes, packed by the API."""
    import a2s

    return a2s.shard(scenes.train, tmp_path_factory.mktemp("api") / "data", workers=0)


@pytest.fixture(scope="session")
def labels(data: Path):
    """Labels of RBD, made by the API."""
    import a2s

    return a2s.label(data, data.with_name("labels"), model="rbd", workers=0)
