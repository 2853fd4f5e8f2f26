"""Stage 1 with other encoders, boundaries and scales: real runs, resumed, and used by others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import pack, run_ranks
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from a2s.config.training import Stage1Options
from a2s.data.epoch_plan import make_plan
from a2s.data.index import Index
from a2s.data.loader import Images
from a2s.data.transforms import flip, normalise
from a2s.models.activation_net import random_e5_scale
from a2s.models.encoder_weights import load_encoder
from a2s.storage import checkpoints

CHOICES = {
    "batch_statistics": "--parity.encoder-mode batch_statistics",
    "trained": "--parity.encoder-mode trained",
    "db1": "--parity.boundary db1",
    "db2": "--parity.boundary db2 --width 32",
    "db3": "--parity.boundary db3",
    "db4": "--parity.boundary db4",
    "official": "--parity.encoder-mode batch_statistics --parity.e5-scale --parity.sign-tie 0 "
    "--fusion-stride 2 --parity.resize-filter bicubic",
}
NUM_COMMITS = 4


def arguments(data: Path, out: Path, choice: str) -> list[str]:
    flags = (
        "--encoder.name mobilenet_v2 --image-size 64 --batch-size 5 --epochs 2 --lr 0.1 "
        "--milestones 1 --commit-every 1 --log-every 1 --loader-workers 0 --seed 4"
    )
    return [
        *("stage1", "--data", str(data), "--out", str(out), "--cache-dir", str(data.parent)),
        *flags.split(),
        *CHOICES[choice].split(),
    ]


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images: two batches of five an epoch, the second of which lacks two."""
    return pack(scenes.train, tmp_path_factory.mktemp("choices") / "data")


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for choice in CHOICES:
        (done,) = run_ranks(arguments(data, root / choice, choice), world=1)
        assert done.code == 0, done.stderr
        says = "the encoder runs at every step" if "encoder" in CHOICES[choice] else "feature cache"
        assert says in done.stderr
        assert "another network than one" not in done.stderr
    return {choice: root / choice for choice in CHOICES}


def tensors(run: Path, name: str = "model", commit: int = NUM_COMMITS) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"{commit:05d}" / f"{name}.safetensors")


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("choice", CHOICES)
def test_resumed_within_an_epoch_is_bit_identical(
    runs: dict[str, Path], data: Path, choice: str
) -> None:
    run = runs[choice]
    last = checkpoints.last_commit(run)
    assert last is not None
    assert (last.number, last.state["finished"]) == (NUM_COMMITS, True)
    before = losses(run)
    assert len(before) == NUM_COMMITS
    assert np.isfinite(before).all()
    # As if the last step had never been taken: the commit before it is in the middle of an epoch.
    last.path.unlink()
    earlier = checkpoints.last_commit(run)
    assert earlier is not None
    assert earlier.state["step"] == 1
    (done,) = run_ranks(arguments(data, run, choice), world=1)
    assert done.code == 0, done.stderr
    again = checkpoints.last_commit(run)
    assert again is not None
    assert again.sha256 == last.sha256
    assert losses(run)[-1] == before[-1]


def start(data: Path) -> nn.Module:
    torch.manual_seed(4)
    return load_encoder("mobilenet_v2", "none")


def test_batch_statistics_move_and_the_weights_do_not(runs: dict[str, Path], data: Path) -> None:
    """The encoder is where a loop over the same images in training mode would leave it."""
    encoder, index = start(data).train(), Index.load(data)
    images = Images(index, image_size=64, seed=4)
    with torch.no_grad():
        for epoch in (1, 2):
            plan = make_plan(index.shard_sizes, batch_size=5, seed=4, epoch=epoch)
            for step in range(plan.num_steps):
                rows = [int(row) for row in plan.batch(step) if row >= 0]
                batch = images.__getitems__([(row, epoch) for row in rows])
                x = [
                    flip(image) if mirrored else image
                    for image, mirrored in zip(batch.image_B3SS, batch.flip_B, strict=True)
                ]
                encoder(normalise(torch.stack(x)))
    found = tensors(runs["batch_statistics"])
    parameters = {name for name, _ in encoder.named_parameters()}
    for name, expected in encoder.state_dict().items():
        if name in parameters:
            assert torch.equal(found[f"encoder.{name}"], expected), name
        else:
            torch.testing.assert_close(
                found[f"encoder.{name}"], expected, rtol=1e-3, atol=1e-5, msg=name
            )
    assert not any("encoder" in name for name in tensors(runs["batch_statistics"], "optimizer"))


def test_a_trained_encoder_learns_at_the_rate_of_the_blocks(runs: dict[str, Path]) -> None:
    """Nothing decays and nothing is damped in SGD's own formula: all parameters follow it."""
    earlier, last = tensors(runs["trained"], commit=3), tensors(runs["trained"])
    momentum = tensors(runs["trained"], "optimizer")
    gradients = {}
    for key, buffer in momentum.items():
        name = key.removeprefix("momentum_buffer/")
        old = tensors(runs["trained"], "optimizer", commit=3)[key]
        gradients[name] = buffer - 0.9 * old
        step = gradients[name] + 0.9 * buffer
        torch.testing.assert_close(last[name], earlier[name] - 0.01 * step, rtol=1e-4, atol=1e-6)
    assert sum(name.startswith("encoder.") for name in gradients) > 150
    buffers = set(last) - set(gradients)
    assert buffers == {n for n in last if n.rsplit(".")[-1].startswith(("running", "num_batches"))}
    assert all(not torch.equal(last[name], earlier[name]) for name in buffers)


def test_what_a_boundary_learns_is_kept(runs: dict[str, Path]) -> None:
    means_K, w_KC = (
        tensors(runs[choice])[f"heads.0.{name}"]
        for choice, name in {"db1": "trainset_mean_K", "db4": "learned_KC"}.items()
    )
    # Activation maps are sums of what a ReLU let through.
    assert (means_K > 0).all()
    assert not torch.equal(w_KC, tensors(runs["db4"], commit=3)["heads.0.learned_KC"])
    assert "momentum_buffer/heads.0.learned_KC" in tensors(runs["db4"], "optimizer")
    assert len({tuple(losses(runs[choice])) for choice in CHOICES}) == len(CHOICES)


def test_the_model_says_how_it_wants_to_be_used(runs: dict[str, Path]) -> None:
    file = runs["official"] / "checkpoints" / f"{NUM_COMMITS:05d}" / "model.safetensors"
    with safe_open(file, framework="pt") as handle:
        metadata = handle.metadata()
    expected = {"boundary": "adb", "sign_tie": "0", "e5_scale": "true", "fusion_stride": "2"}
    assert expected | {"resize_filter": "bicubic"} == {
        name: metadata[name] for name in (*expected, "resize_filter")
    }
    assert metadata["width"] == "64"
    narrow = runs["db2"] / "checkpoints" / f"{NUM_COMMITS:05d}" / "model.safetensors"
    with safe_open(narrow, framework="pt") as handle:
        assert handle.metadata()["width"] == "32"
        assert handle.get_slice("heads.0.se5.conv.weight").get_shape()[0] == 32
    scale_C = tensors(runs["official"])["heads.0.e5_scale_C"]
    assert torch.equal(scale_C, random_e5_scale(1280, seed=4))


@pytest.mark.parametrize("mode", ["batch_statistics", "trained"])
def test_one_pixel_has_no_statistics(mode: str) -> None:
    with pytest.raises(ValidationError, match="image_size of at least 64"):
        Stage1Options(parity={"encoder_mode": mode}, image_size=32)
    Stage1Options(parity={"encoder_mode": mode}, image_size=64)


def test_a_trained_encoder_survives_the_learning_rate_of_the_paper(
    scenes, data: Path, tmp_path: Path
) -> None:
    """It collapses (Table IV, A0), which is a result: every loss and every weight stays finite."""
    flags = arguments(data, tmp_path / "out", "trained")
    flags[flags.index("--lr") + 1] = "1"
    flags[flags.index("--epochs") + 1] = "6"
    (done,) = run_ranks(flags, world=1)
    assert done.code == 0, done.stderr
    assert np.isfinite(losses(tmp_path / "out")).all()
    last = checkpoints.last_commit(tmp_path / "out")
    assert last is not None
    assert all(tensor.isfinite().all() for tensor in checkpoints.load(last)[0].values())
