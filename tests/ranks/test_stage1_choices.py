"""Encoder and boundary settings of stage 1 on real gloo ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from processes import pack, run_ranks
from safetensors.torch import load_file
from torch import Tensor

from a2s.data.epoch_plan import make_plan
from a2s.data.index import Index
from a2s.data.loader import Images
from a2s.data.transforms import flip_where, normalise
from a2s.models.activation_net import ActivationNet, EncoderMode
from a2s.models.encoder_weights import load_encoder
from a2s.training.losses import adb_loss, map_terms

SEED, SIZE, BATCH, WORLD = 0, 64, 6, 2
WEIGHT_K = torch.tensor([1, 0.1, 0.3, 0.5], dtype=torch.float64)


def arguments(data: Path, out: Path, **changed: object) -> list[str]:
    settings = {
        "encoder.name": "mobilenet_v2",
        "image-size": SIZE,
        "batch-size": BATCH,
        "epochs": 2,
        "lr": 0.1,
        "weight-decay": 0,
        "commit-every": 1,
        "log-every": 1,
        "loader-workers": 0,
        "cache-dir": out.parent / "cache",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    flags = [item for name, value in settings.items() for item in (f"--{name}", str(value))]
    return ["stage1", "--data", str(data), "--out", str(out), *flags, "--no-drop-pixels"]


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images: with batches of six on two ranks, the second rank's last lanes are padding."""
    return pack(scenes.train, tmp_path_factory.mktemp("choices") / "data")


def run(data: Path, out: Path, *, world: int, **changed: object) -> str:
    done = run_ranks(arguments(data, out, **changed), world=world)
    assert [rank.code for rank in done] == [0] * world, [rank.stderr for rank in done]
    return done[0].stderr


def tensors(run: Path, name: str, commit: int) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / f"{commit:05d}" / f"{name}.safetensors")


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("boundary", ["db1", "db4"])
def test_learned_boundary_does_not_depend_on_the_number_of_ranks(
    data: Path, tmp_path: Path, boundary: str
) -> None:
    for world in (1, WORLD):
        run(data, tmp_path / str(world), world=world, **{"parity.boundary": boundary})
    one, two = (losses(tmp_path / str(world)) for world in (1, WORLD))
    assert len(one) == 4
    assert two == pytest.approx(one, abs=5e-6)
    name = {"db1": "heads.0.trainset_mean_K", "db4": "heads.0.learned_KC"}[boundary]
    one, two = (tensors(tmp_path / str(world), "model", 4)[name] for world in (1, WORLD))
    assert one.abs().max() > 0.05
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["batch_statistics", "trained"])
def test_batchnorm_is_per_rank_and_reported(data: Path, tmp_path: Path, mode: EncoderMode) -> None:
    """The first gradient equals that of a reference loop with one batch per rank."""
    out = tmp_path / "out"
    said = run(data, out, world=WORLD, epochs=1, **{"parity.encoder_mode": mode})
    assert "BatchNorm normalises each rank's images by themselves, so 2 ranks train another" in said

    torch.manual_seed(SEED)
    net = ActivationNet(load_encoder("mobilenet_v2", "none"), fusion_stride=4, encoder_mode=mode)
    index = Index.load(data)
    plan = make_plan(index.shard_sizes, batch_size=BATCH, seed=SEED, epoch=1)
    images, terms, first_rank = Images(index, image_size=SIZE, seed=SEED), [], {}
    for rank in range(WORLD):
        rows = plan.rank_batch(0, rank=rank, world=WORLD)
        batch = images.__getitems__([(int(row), 1) for row in rows if row >= 0])
        x = flip_where(normalise(batch.image_B3SS), batch.flip_B)
        maps = net(x.contiguous(memory_format=torch.channels_last))
        terms.append(map_terms(maps, batch.valid_B, None, side=SIZE, alpha=0.1))
        first_rank = first_rank or {n: b.clone() for n, b in net.encoder.named_buffers()}
    numerator_K = terms[0].numerator_K + terms[1].numerator_K
    num_kept_K = terms[0].num_kept_K + terms[1].num_kept_K
    adb_loss(numerator_K, num_kept_K, WEIGHT_K).backward()

    # Without decay, momentum after the first step is the gradient.
    found = {
        name.removeprefix("momentum_buffer/"): buffer
        for name, buffer in tensors(out, "optimizer", 1).items()
    }
    expected = dict(net.heads.named_parameters(prefix="heads"))
    if mode == "trained":
        expected |= {f"encoder.{name}": p for name, p in net.encoder.named_parameters()}
    assert found.keys() == expected.keys()
    scale = max(buffer.abs().max() for buffer in found.values())
    assert scale > 1e-4
    for name, parameter in expected.items():
        assert parameter.grad is not None
        error = (found[name] - parameter.grad).abs().max()
        assert error <= 1e-4 * scale, name
    # The saved statistics are those of rank 0.
    kept = tensors(out, "model", 1)
    for name, buffer in first_rank.items():
        torch.testing.assert_close(kept[f"encoder.{name}"], buffer, rtol=1e-4, atol=1e-5)


def test_trained_encoder_resumes_with_another_number_of_ranks(data: Path, tmp_path: Path) -> None:
    out, changed = tmp_path / "out", {"parity.encoder_mode": "trained", "epochs": 2}
    run(data, out, world=WORLD, **changed)
    newest = max((out / "commits").iterdir())
    newest.unlink()
    run(data, out, world=1, **changed)
    assert newest.exists()
    assert json.loads(newest.read_text())["state"]["finished"]
