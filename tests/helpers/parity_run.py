"""A run of `a2s stage1` or `stage2` under `configs/official.yaml`, and its plain counterpart."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from authors import renamed
from label_shards import write_labels
from PIL import Image
from processes import pack, run_ranks
from repository import REPO
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.ops.misc import Conv2dNormActivation

from a2s.config.parse import parse
from a2s.data.epoch_plan import make_plan
from a2s.data.index import Index
from a2s.models import saved
from a2s.storage.hashing import key_hash

SIDE, TOLERANCE = 64, 1e-4


@dataclass(frozen=True)
class Run:
    """A finished run and its arguments."""

    command: str
    data: Index
    labels: Index
    out: Path
    arguments: list[str]

    @property
    def config(self):
        """Its settings."""
        return parse(self.command, self.arguments)

    @property
    def lines(self) -> list[dict[str, float]]:
        """Logged records, one per step."""
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def batches(self, epoch: int) -> list[list[int]]:
        """Rows of every step."""
        size, seed = self.config.batch_size, self.config.seed
        plan = make_plan(self.data.shard_sizes, batch_size=size, seed=seed, epoch=epoch)
        return [plan.batch(step).tolist() for step in range(plan.num_steps)]

    def hashes(self, rows: list[int]) -> Tensor:
        """Key hashes of these images, which determine their random draws."""
        return torch.tensor([key_hash(self.data.key(row)) for row in rows])


@dataclass
class Plain:
    """The same run by the reference code: initial weights and results."""

    start: dict[str, Tensor]
    weights: dict[str, Tensor] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


def start_run(command: str, scenes, shared: Path, root: Path, flags: str) -> Run:
    """Pack, label, and train with a pretrained MobileNetV2."""
    data = pack(scenes.train, root / "data")
    labels, out = write_labels(data, root / "labels"), root / "out"
    weights = shared / "encoders" / "mobilenet_v2_imagenet.safetensors"
    arguments = ["--config", str(REPO / "configs" / "official.yaml")]
    arguments += ["--data", str(data), "--out", str(out)]
    arguments += ["--labels", str(labels)] if command == "stage2" else []
    arguments += ["--encoder.name", "mobilenet_v2", "--encoder.weights", str(weights)]
    arguments += f"--image-size {SIDE} --log-every 1 --loader-workers 0 {flags}".split()
    (done,) = run_ranks([command, *arguments], world=1)
    assert done.code == 0, done.stderr
    return Run(command, Index.load(data), Index.load(labels), out, arguments)


def image_of(data: bytes) -> Tensor:
    """Decoded, resized with Pillow's default filter, normalised. Shape: [3, S, S]."""
    pixels = np.array(Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE)), np.float32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(pixels) / 255 - mean) / std).permute(2, 0, 1)


def label_of(data: bytes) -> Tensor:
    """Decoded, resized in float32, clipped as bytes would be. Shape: [1, S, S]."""
    label = Image.fromarray(np.array(Image.open(io.BytesIO(data)), dtype=np.float32) / 255)
    return torch.from_numpy(np.array(label.resize((SIDE, SIDE))).clip(0, 1))[None]


def encoder_of(start: dict[str, Tensor]) -> nn.Sequential:
    """Torchvision's network, with the convolution more that these weights have in block 1.

    In our memory format, hence with our rounding, which BatchNorm over four images multiplies.
    """
    encoder = mobilenet_v2(weights=None).features
    first = Conv2dNormActivation(32, 32, kernel_size=1, activation_layer=nn.ReLU6)
    encoder[1] = nn.Sequential(first, encoder[1])
    prefix = "encoder.features."
    encoder.load_state_dict(
        {name.removeprefix(prefix): x for name, x in start.items() if name.startswith(prefix)}
    )
    channels_last: nn.Sequential = encoder.to(memory_format=torch.channels_last)
    return channels_last


def taps_of(encoder: nn.Sequential, x: Tensor) -> list[Tensor]:
    """E1 to E5."""
    taps = []
    for first, last in ((0, 2), (2, 4), (4, 7), (7, 14), (14, 19)):
        x = encoder[first:last](x)
        taps.append(x)
    return taps


def finish(made: Plain, encoder: nn.Sequential, blocks: dict[str, Tensor]) -> Plain:
    """Name the final weights as `start` has them."""
    made.weights = {f"encoder.features.{name}": x for name, x in encoder.state_dict().items()}
    made.weights |= blocks
    return made


def check_weights(run: Run, made: Plain, names: dict[str, str], *, prefix: str) -> None:
    """Check that the last commit's tensors equal the reference up to rounding."""
    ours = saved.load_model(run.out)[0].state_dict()
    ours |= renamed(ours, names, prefix=prefix)
    start = made.start | renamed(made.start, names, prefix=prefix)
    apart, moved = {True: 0.0, False: 0.0}, {True: 0.0, False: 0.0}
    for name, tensor in made.weights.items():
        if not tensor.is_floating_point():
            continue
        theirs = tensor.detach()
        # Where all entries are nearly zero, as some means of this encoder, of a tenth.
        largest = max(float(theirs.abs().max()), 0.1)
        assert (ours[name] - theirs).abs().max() < TOLERANCE * largest, name
        if "running" not in name:
            of_encoder = name.startswith("encoder")
            apart[of_encoder] += float((ours[name] - theirs).square().sum())
            moved[of_encoder] += float((theirs - start[name]).square().sum())
    for of_encoder in (True, False):
        assert apart[of_encoder] ** 0.5 <= 0.05 * moved[of_encoder] ** 0.5, of_encoder
    assert moved[False] > 0
    assert (moved[True] > 0) == (run.command == "stage2")
