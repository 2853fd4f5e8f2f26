"""Data, model and settings for tests of `a2s label`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from a2s.config.commands import LabelConfig
from a2s.data.keys import encode_key
from a2s.data.shards import ShardWriter
from a2s.models.activation_net import ActivationNet
from a2s.models.encoders import build_encoder


def encoded(height: int, width: int, *, seed: int, image_format: str = "PNG") -> bytes:
    """A noisy gradient with a bright rectangle; seed 0 is all black."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3), np.uint8)
    if seed:
        image[:] = rng.integers(0, 60, image.shape)
        image[height // 4 : height // 2 + 1, width // 4 : width // 2 + 1] += 150
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format)
    return buffer.getvalue()


def write_data(folder: Path, shards: list[list[tuple[str, bytes]]]) -> Path:
    folder.mkdir()
    for number, samples in enumerate(shards):
        with ShardWriter(
            folder, f"shard-{number:06d}", settings="test", num_shards=len(shards)
        ) as writer:
            for key, data in samples:
                writer.add(encode_key(key), {"png": data})
    return folder


def write_model(path: Path, *, encoder: str = "mobilenet_v2", fusion_stride: int = 4) -> Path:
    """An untrained activation network for 64 px input, as stage 1 would save it."""
    torch.manual_seed(0)
    network = ActivationNet(build_encoder(encoder), fusion_stride=fusion_stride)
    metadata = {**network.spec(), "image_size": "64", "resize_filter": "bilinear"}
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(tensors, path, metadata)
    return path


def config(model: Path, data: Path, out: Path, **settings: object) -> LabelConfig:
    values = {"workers": 0, "batch_size": 3, "max_failure_rate": 0.5, **settings}
    return LabelConfig(model=model, data=data, out=out, **values)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    """Output that must not depend on workers; without settings, which contain the folder's name."""
    contents = {}
    for path in sorted(folder.glob("shard-*")):
        contents[path.name] = path.read_bytes()
        if path.suffix == ".json":
            manifest = {**json.loads(contents[path.name]), "settings": "", "manifest_sha256": ""}
            contents[path.name] = json.dumps(manifest).encode()
    contents["failures.jsonl"] = (folder / "failures.jsonl").read_bytes()
    return contents
