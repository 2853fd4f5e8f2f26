"""Stage 1 on real gloo ranks: results do not depend on the number of ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import Finished, pack, run_ranks
from safetensors.torch import load_file

WORLDS = (1, 2, 3)


def arguments(data: Path, out: Path, **changed: object) -> list[str]:
    settings = {
        "encoder.name": "mobilenet_v2",
        "image-size": 64,
        "batch-size": 6,
        "epochs": 1,
        "lr": 0.1,
        "weight-decay": 0,
        "commit-every": 1,
        "log-every": 1,
        "loader-workers": 0,
        "cache-dir": out.parent / "cache",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    flags = [item for name, value in settings.items() for item in (f"--{name}", str(value))]
    return ["stage1", "--data", str(data), "--out", str(out), *flags]


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images in shards of three: with batches of six, four lanes of the last are padding."""
    return pack(scenes.train, tmp_path_factory.mktemp("ranks") / "data")


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("worlds")
    for world in WORLDS:
        # Each rank has its own temporary folder; only --data and --out are shared.
        own = [{"TMPDIR": str(root / f"tmp-{world}-{rank}")} for rank in range(world)]
        for variables in own:
            Path(variables["TMPDIR"]).mkdir()
        done = run_ranks(arguments(data, root / f"out{world}"), world=world, variables=own)
        assert [rank.code for rank in done] == [0] * world, [rank.stderr for rank in done]
        assert sum("stage1: wrote" in rank.stdout for rank in done) == 1
    return {world: root / f"out{world}" for world in WORLDS}


def gradients(run: Path, commit: int) -> dict[str, torch.Tensor]:
    """Momentum buffers: after the first step they are the gradients (no weight decay)."""
    return load_file(run / "checkpoints" / f"{commit:05d}" / "optimizer.safetensors")


@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("step", [1, 2])
def test_gradients_do_not_depend_on_the_number_of_ranks(
    runs: dict[int, Path], world: int, step: int
) -> None:
    one, many = gradients(runs[1], step), gradients(runs[world], step)
    assert one.keys() == many.keys()
    scale = max(tensor.abs().max() for tensor in one.values())
    assert scale > 1e-4, "no gradient, nothing compared"
    for name, expected in one.items():
        error = (many[name] - expected).abs().max()
        assert error <= 1e-5 * scale, name


@pytest.mark.parametrize("world", WORLDS[1:])
def test_losses_do_not_depend_on_the_number_of_ranks(runs: dict[int, Path], world: int) -> None:
    def losses(run: Path) -> list[float]:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    assert len(losses(runs[1])) == 2
    assert losses(runs[world]) == pytest.approx(losses(runs[1]), abs=2e-6)


@pytest.mark.parametrize("world", WORLDS)
def test_resumed_in_mid_epoch_with_another_number_of_ranks(
    runs: dict[int, Path], data: Path, tmp_path: Path, world: int
) -> None:
    """Step 2 of 2 follows on the commit of step 1, with other lanes on other ranks."""
    before = WORLDS[world % len(WORLDS)]
    out = shutil.copytree(runs[before], tmp_path / "out")
    # As a kill after the first commit leaves it.
    (out / "commits" / "00002.json").unlink()
    shutil.rmtree(out / "checkpoints" / "00002")
    assert json.loads((out / "commits" / "00001.json").read_text())["state"]["step"] == 1
    done = run_ranks(arguments(data, out), world=world)
    assert [rank.code for rank in done] == [0] * world, [rank.stderr for rank in done]
    one, other = gradients(runs[1], 2), gradients(out, 2)
    scale = max(tensor.abs().max() for tensor in one.values())
    for name, expected in one.items():
        assert (other[name] - expected).abs().max() <= 1e-5 * scale, name


def test_frozen_encoder_does_not_change(runs: dict[int, Path]) -> None:
    first, second = (
        load_file(runs[2] / "checkpoints" / name / "model.safetensors")
        for name in ("00001", "00002")
    )
    for name in first:
        same = torch.equal(first[name], second[name])
        assert same == name.startswith("encoder."), name


def test_one_message_and_exit_code_2_on_all_ranks(
    runs: dict[int, Path], data: Path, tmp_path: Path
) -> None:
    """Only rank 0 detects that the folder belongs to other settings."""
    shutil.copy(runs[2] / "config.yaml", tmp_path)
    done = run_ranks(arguments(data, tmp_path, batch_size=4), world=2)
    assert [rank.code for rank in done] == [2, 2]
    assert messages(done) == 1
    assert "batch_size: 6 there, 4 now" in done[0].stderr


def test_batch_size_must_be_divisible_by_the_ranks(data: Path, tmp_path: Path) -> None:
    done = run_ranks(arguments(data, tmp_path / "out", batch_size=5), world=2)
    assert [rank.code for rank in done] == [2, 2]
    assert messages(done) == 1
    assert "5" in done[0].stderr
    assert "2 ranks" in done[0].stderr
    assert not (tmp_path / "out").exists()


def messages(done: list[Finished]) -> int:
    return sum(line.startswith("a2s: ") for rank in done for line in rank.stderr.splitlines())
