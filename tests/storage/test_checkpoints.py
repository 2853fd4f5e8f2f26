"""Checkpoints: atomic, verified, at most two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import environment
from torch import nn

from a2s.errors import CheckpointError
from a2s.models import saved
from a2s.models.activation_net import ActivationNet
from a2s.models.detector import Detector
from a2s.models.encoders import build_encoder
from a2s.storage import checkpoints
from a2s.training.optimizer import pack_momentum, unpack_momentum


def save(run: Path, number: int, *, value: float = 1.0) -> checkpoints.Commit:
    return checkpoints.save(
        run,
        number,
        model={"w": torch.full((2, 3), value)},
        metadata={"kind": "none", "b": "2", "a": "1", "c": "ü"},
        optimizer={"momentum_buffer/w": torch.full((2, 3), -value)},
        state={"epoch": number, "step": 0, "finished": False},
    )


def test_load_returns_what_was_saved(tmp_path: Path) -> None:
    assert checkpoints.last_commit(tmp_path) is None
    save(tmp_path, 1)
    commit = checkpoints.last_commit(tmp_path)
    assert commit is not None
    model, optimizer, state = checkpoints.load(commit)
    assert torch.equal(model["w"], torch.ones(2, 3))
    assert torch.equal(optimizer["momentum_buffer/w"], -torch.ones(2, 3))
    assert state == {"epoch": 1, "step": 0, "finished": False}
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    files = ("model.safetensors", "optimizer.safetensors", "state.json")
    assert names == {"commits/00001.json", *(f"checkpoints/00001/{name}" for name in files)}


def test_the_last_two_commits_are_kept(tmp_path: Path) -> None:
    for number in range(1, 5):
        save(tmp_path, number)
    assert sorted(p.name for p in (tmp_path / "commits").iterdir()) == ["00003.json", "00004.json"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00003", "00004"]


def test_foreign_folders_are_not_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoints" / "00001", tmp_path / "checkpoints" / "best")
    (tmp_path / "checkpoints" / ".00009.tmp").mkdir()
    for number in range(2, 5):
        save(tmp_path, number)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["00003", "00004", "best"]


def test_equal_weights_make_equal_files(tmp_path: Path) -> None:
    """Also between processes, where the library orders metadata at random."""
    first = save(tmp_path / "a", 1)
    code = (
        "import sys, pathlib\n"
        "from test_checkpoints import save\n"
        "print(save(pathlib.Path(sys.argv[1]), 1).sha256['model.safetensors'])"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "b")],
        env=environment(PYTHONPATH=path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == first.sha256["model.safetensors"]


def test_an_interrupted_save_is_repeated(tmp_path: Path) -> None:
    """Killed after the folder was renamed and before the commit: the old commit stays valid."""
    save(tmp_path, 1)
    save(tmp_path, 2, value=7)
    (tmp_path / "commits" / "00002.json").unlink()
    (tmp_path / "checkpoints" / ".00003.tmp").mkdir()
    commit = checkpoints.last_commit(tmp_path)
    assert commit is not None
    assert commit.number == 1
    assert save(tmp_path, 2, value=3).number == 2
    assert torch.equal(checkpoints.load(save(tmp_path, 3))[0]["w"], torch.ones(2, 3))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["00002", "00003"]


@pytest.mark.parametrize("name", checkpoints.FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damage_is_detected_and_the_suggested_recovery_works(
    tmp_path: Path, name: str, damage: str
) -> None:
    save(tmp_path, 1, value=5)
    commit = save(tmp_path, 2)
    path = commit.folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-3])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(commit)
    assert str(path) in str(caught.value)
    assert f"delete {commit.path}" in str(caught.value)
    commit.path.unlink()
    before = checkpoints.last_commit(tmp_path)
    assert before is not None
    assert torch.equal(checkpoints.load(before)[0]["w"], torch.full((2, 3), 5.0))


def test_a_damaged_commit_file_is_an_error(tmp_path: Path) -> None:
    commit = save(tmp_path, 1)
    commit.path.write_text('{"commit": 1}')
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.last_commit(tmp_path)


def test_a_full_disk_keeps_the_old_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError, match="No space"):
            save(tmp_path, 2)
    commit = checkpoints.last_commit(tmp_path)
    assert commit is not None
    assert commit.number == 1
    checkpoints.verify(commit)
    save(tmp_path, 2)
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.parametrize("kind", ["activation", "ram", "conv", "minet"])
def test_a_network_is_built_from_its_file(tmp_path: Path, kind: str) -> None:
    encoder = build_encoder("mobilenet_v2")
    net = (
        ActivationNet(encoder, fusion_stride=8)
        if kind == "activation"
        else Detector(encoder, detector=kind)
    )
    metadata = {**net.spec(), "image_size": "64"}
    state = {"epoch": 1, "step": 0, "finished": False}
    commit = checkpoints.save(
        tmp_path, 1, model=net.state_dict(), metadata=metadata, optimizer={}, state=state
    )
    alone = tmp_path / "alone.safetensors"
    shutil.copy(commit.folder / "model.safetensors", alone)
    image = torch.randn(1, 3, 64, 64)
    expected = net.eval()(image)
    for path in (tmp_path, alone):
        loaded, read = saved.load_model(path)
        assert read == metadata
        assert not loaded.training
        got = loaded(image)
        if kind == "activation":
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
        else:
            assert torch.equal(got, expected)


def test_files_that_are_not_models_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CheckpointError, match="neither"):
            saved.resolve_model(path)
    text = tmp_path / "x.safetensors"
    text.write_text("not a model")
    with pytest.raises(CheckpointError, match="safetensors"):
        saved.load_model(text)
    commit = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="not a model that a2s wrote"):
        saved.load_model(commit.folder / "model.safetensors")


def test_momentum_is_saved_and_restored(tmp_path: Path) -> None:
    def make() -> tuple[nn.Linear, torch.optim.SGD]:
        torch.manual_seed(0)
        net = nn.Linear(3, 2)
        return net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)

    def step(net: nn.Linear, optimizer: torch.optim.SGD) -> None:
        optimizer.zero_grad()
        net(torch.arange(3.0)).square().sum().backward()
        optimizer.step()

    net, optimizer = make()
    step(net, optimizer)
    packed = pack_momentum(optimizer, dict(net.named_parameters()))
    assert set(packed) == {"momentum_buffer/weight", "momentum_buffer/bias"}
    other, resumed = make()
    other.load_state_dict(net.state_dict())
    unpack_momentum(resumed, dict(other.named_parameters()), tensors=packed)
    step(net, optimizer)
    step(other, resumed)
    assert torch.equal(net.weight, other.weight)
    with pytest.raises(ValueError, match="fits no parameter"):
        unpack_momentum(resumed, {}, tensors=packed)


@pytest.mark.parametrize("change", [{"epoch": 3}, {"finished": True}, {"generation": 1}])
def test_a_commit_whose_state_is_not_that_of_its_checkpoint_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    """A flipped bit in a digit would let a run go on from another epoch."""
    path = save(tmp_path, 1).path
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "state": {**record["state"], **change}}))
    commit = checkpoints.last_commit(tmp_path)
    assert commit is not None
    with pytest.raises(CheckpointError, match="its state is not that of the checkpoint") as caught:
        checkpoints.load(commit)
    assert f"delete {path}" in str(caught.value)
