"""`a2s stage2` from shards to weights, beside the same run written plainly (`plain.py`).

Real files, a pretrained encoder, the real command under `configs/official.yaml`. The other side is
told the initial weights, the order of the images and which are mirrored: these are our own draws.
The rate is a fiftieth of the preset's. At that the first steps of a new decoder multiply the last
bit of any number a thousandfold, whoever computes them; so how far the weights moved is compared.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plain
import pytest
import torch
from authors import STAGE2_MODULES, renamed
from labelled import write_labels
from launching import pack, run_ranks
from PIL import Image
from torch import Tensor, nn
from torchvision.models import mobilenet_v2
from torchvision.ops.misc import Conv2dNormActivation

from a2s import checkpoint
from a2s.data.keys import key_hash
from a2s.data.plan import make_plan
from a2s.data.tars import Index
from a2s.data.transforms import draw_flip
from a2s.labelstore import Generation
from a2s.settings import parse
from a2s.starting import start_stage2

REPO = Path(__file__).resolve().parents[2]
SIDE, TOLERANCE = 64, 1e-4


@dataclass(frozen=True)
class Run:
    """A finished run of `a2s stage2`, and how it was called."""

    data: Index
    labels: Index
    out: Path
    arguments: list[str]

    def flipped(self, row: int) -> bool:
        """Whether the image is mirrored, for the whole run."""
        key_hash_B = torch.tensor([key_hash(self.data.key(row))])
        return bool(draw_flip(seed=0, epoch=0, key_hash_B=key_hash_B))


@dataclass
class Plain:
    """The same run, written plainly: what it has when it ends."""

    rates: list[float]
    losses: list[float]
    start: dict[str, Tensor]
    weights: dict[str, Tensor]
    labels: dict[int, Tensor]


def stage2(scenes, shared: Path, root: Path, flags: str) -> Run:
    data = pack(scenes.train, root / "data")
    labels, out = write_labels(data, root / "labels"), root / "out"
    weights = shared / "encoders" / "mobilenet_v2_imagenet.safetensors"
    arguments = ["--config", str(REPO / "configs" / "official.yaml")]
    arguments += ["--data", str(data), "--labels", str(labels), "--out", str(out)]
    arguments += ["--encoder.name", "mobilenet_v2", "--encoder.weights", str(weights)]
    arguments += f"--lr 0.0001 --image-size {SIDE} --log-every 1 --loader-workers 0 {flags}".split()
    (done,) = run_ranks(["stage2", *arguments], world=1)
    assert done.code == 0, done.stderr
    return Run(Index.load(data), Index.load(labels), out, arguments)


def image_of(data: bytes) -> Tensor:
    """Decoded, squashed, normalised. Shape: [3, S, S]."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    pixels = np.array(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(pixels) / 255 - mean) / std).permute(2, 0, 1)


def label_of(data: bytes) -> Tensor:
    """Decoded and squashed. Shape: [1, S, S]."""
    label = Image.fromarray(np.array(Image.open(io.BytesIO(data)), dtype=np.float32) / 255)
    return torch.from_numpy(np.array(label.resize((SIDE, SIDE), Image.Resampling.BILINEAR)))[None]


def encoder_of(start: dict[str, Tensor]) -> nn.Sequential:
    """Torchvision's network, with the convolution more that these weights have in block 1."""
    encoder = mobilenet_v2(weights=None).features
    first = Conv2dNormActivation(32, 32, kernel_size=1, activation_layer=nn.ReLU6)
    encoder[1] = nn.Sequential(first, encoder[1])
    prefix = "encoder.features."
    encoder.load_state_dict(
        {name.removeprefix(prefix): x for name, x in start.items() if name.startswith(prefix)}
    )
    return encoder


def taps_of(encoder: nn.Sequential, x: Tensor) -> list[Tensor]:
    taps = []
    for first, last in ((0, 2), (2, 4), (4, 7), (7, 14), (14, 19)):
        x = encoder[first:last](x)
        taps.append(x)
    return taps


def plain_run(run: Run, *, epochs: int, falls_in: tuple[int, ...], train_norms: bool) -> Plain:
    config = parse("stage2", run.arguments)
    start = start_stage2(config, None, device=torch.device("cpu"))[0].state_dict()
    encoder, decoder = encoder_of(start), renamed(start, STAGE2_MODULES, prefix="decoder.")
    encoder.train(train_norms)
    trained = [tensor.requires_grad_() for tensor in decoder.values()]
    optimizer = plain.NesterovSGD([(trained, 1.0), (list(encoder.parameters()), 0.1)])

    # Everything is read, and half of it mirrored, once.
    images: dict[int, Tensor] = {}
    labels: dict[int, Tensor] = {}
    for row in range(len(run.data)):
        image = image_of(run.data.read(row))
        label = label_of(run.labels.read(int(run.labels.rows_of([run.data.key(row)])[0])))
        images[row], labels[row] = (x.flip(-1) if run.flipped(row) else x for x in (image, label))

    made = Plain([], [], start | renamed(start, STAGE2_MODULES, prefix="decoder."), {}, labels)
    for epoch, rate in enumerate(plain.rates(config.lr, falls_in, epochs=epochs), start=1):
        order = make_plan(
            run.data.shard_sizes, batch_size=config.batch_size, seed=config.seed, epoch=epoch
        )
        for step in range(order.num_steps):
            rows = order.batch(step).tolist()
            taps = taps_of(encoder, torch.stack([images[row] for row in rows]))
            predicted = plain.logits(decoder, taps, side=SIDE)
            target = torch.stack([labels[row] for row in rows])
            loss = plain.detection_loss(predicted, target)
            loss.backward()
            optimizer.step(rate)
            labels |= zip(rows, plain.next_label(target, predicted, epoch=epoch), strict=True)
            made.rates.append(rate)
            made.losses.append(loss.item())
    made.weights = {f"encoder.features.{name}": x for name, x in encoder.state_dict().items()}
    made.weights |= decoder
    return made


def check_weights(run: Run, made: Plain) -> None:
    """The last commit's tensors are as near to their counterparts as rounding lets them."""
    ours = checkpoint.load_model(run.out)[0].state_dict()
    ours |= renamed(ours, STAGE2_MODULES, prefix="decoder.")
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
            moved[of_encoder] += float((theirs - made.start[name]).square().sum())
    for of_encoder in (True, False):
        assert moved[of_encoder] > 0
        assert apart[of_encoder] ** 0.5 < 0.01 * moved[of_encoder] ** 0.5, of_encoder


def test_a_run_of_stage2(scenes, shared: Path, tmp_path: Path) -> None:
    """Ten steps in five epochs, three of which rectify labels; the rate falls twice.

    BatchNorm as it is stored: with the statistics of four images rounding is multiplied once more.
    """
    run = stage2(scenes, shared, tmp_path, "--batch-size 4 --epochs 5 --batchnorm frozen")
    made = plain_run(run, epochs=5, falls_in=(4, 5), train_norms=False)
    lines = [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 10
    assert [line["lr"] for line in lines] == pytest.approx(made.rates, rel=1e-9)
    assert [line["loss"] for line in lines] == pytest.approx(made.losses, rel=TOLERANCE)
    check_weights(run, made)
    final = Generation.load(run.out / "labels", 3)
    for row, label in made.labels.items():
        theirs = (label.flip(-1) if run.flipped(row) else label)[0]
        assert np.abs(final.read(row) - theirs.numpy()).max() < TOLERANCE


def test_one_step_with_batchnorm_in_training(scenes, shared: Path, tmp_path: Path) -> None:
    """The preset as it stands: the batch's statistics, and stored ones that follow them."""
    run = stage2(scenes, shared, tmp_path, "--batch-size 8 --epochs 1")
    made = plain_run(run, epochs=1, falls_in=(), train_norms=True)
    (line,) = (run.out / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] == pytest.approx(made.losses[0], rel=TOLERANCE)
    check_weights(run, made)
    first = "encoder.features.0.1.running_mean"
    assert (made.weights[first] - made.start[first]).abs().max() > 1e-3
