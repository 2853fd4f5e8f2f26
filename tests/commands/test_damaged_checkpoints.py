"""Checkpoints and models that are whole by their checksums, and yet not what they must be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from label_shards import write_labels
from processes import Finished, call, pack
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from a2s.storage.hashing import sha256_file

TRAINING = (
    *("--encoder.name", "mobilenet_v2", "--image-size", 32, "--batch-size", 4, "--epochs", 2),
    *("--loader-workers", 0),
)
Tensors = dict[str, Tensor]
Metadata = dict[str, str]


@pytest.fixture(scope="module")
def made(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, labels, and a run of each stage that waits after its first epoch."""
    root = tmp_path_factory.mktemp("damaged")
    write_labels(pack(scenes.train, root / "data"), root / "labels")
    for name in ("stage1", "stage2"):
        done = call(*command(name, root), "--until-epoch", 1)
        assert done.code == 0, done.stderr
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "root")


def command(name: str, root: Path) -> tuple[object, ...]:
    own = {
        "stage1": ("--heads", 1, "--min-agreement", 0, "--cache-dir", root / "cache"),
        "stage2": ("--labels", root / "labels", "--warm-epochs", 1),
    }
    return (name, "--data", root / "data", "--out", root / name, *TRAINING, *own[name])


def first_weight(tensors: Tensors) -> str:
    return next(name for name in sorted(tensors) if tensors[name].dim() > 1)


def without_one(tensors: Tensors, _: Metadata) -> None:
    del tensors[first_weight(tensors)]


def smaller(tensors: Tensors, _: Metadata) -> None:
    tensors[name] = tensors[name := first_weight(tensors)][:1].clone()


def whole_numbers(tensors: Tensors, _: Metadata) -> None:
    tensors[name] = tensors[name := first_weight(tensors)].to(torch.int64)


def not_finite(tensors: Tensors, _: Metadata) -> None:
    tensors[first_weight(tensors)][0] = float("nan")


def nothing(tensors: Tensors, _: Metadata) -> None:
    tensors.clear()


Forge = Callable[[Tensors, Metadata], None]
FORGED: tuple[Forge, ...] = (without_one, smaller, whole_numbers, not_finite, nothing)


def forge(run: Path, file: str, change: Forge | None) -> None:
    """Change a file of the last commit, or (None) cut it, and its checksum."""
    commit = max((run / "commits").iterdir())
    path = run / "checkpoints" / commit.stem / file
    if change is None:
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with safe_open(path, framework="pt") as handle:
            metadata = dict(handle.metadata() or {})
        tensors = load_file(path)
        change(tensors, metadata)
        save_file(tensors, path, metadata)
    record = json.loads(commit.read_text())
    record["sha256"][file] = sha256_file(path)
    commit.write_text(json.dumps(record))


def assert_refused(done: Finished, *parts: str) -> None:
    assert done.code == 2, done.stdout + done.stderr
    line = done.stderr.splitlines()[-1]
    for part in parts:
        assert part in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "file", "change"),
    [
        *(("stage1", "model.safetensors", change) for change in (*FORGED, None)),
        *(("stage1", "optimizer.safetensors", change) for change in (*FORGED, None)),
        ("stage2", "model.safetensors", not_finite),
        ("stage2", "optimizer.safetensors", without_one),
    ],
)
def test_training_does_not_go_on_from_it(
    root: Path, name: str, file: str, change: Forge | None
) -> None:
    forge(root / name, file, change)
    before = sorted((root / name).rglob("*"))
    assert_refused(call(*command(name, root)), f"00001/{file}")
    assert sorted(set((root / name).rglob("*")) - set(before)) == [root / name / "stopped.json"]


@pytest.mark.parametrize("change", FORGED)
def test_no_command_uses_such_a_network(root: Path, change: Forge) -> None:
    forge(root / "stage2", "model.safetensors", change)
    images, out = next((root / "data").glob("*.tar")), root / "out"
    for arguments in (
        ("predict", images, "--model", root / "stage2", "--out", out, "--workers", 0),
        ("export-model", root / "stage2", "--out", root / "m.onnx"),
    ):
        assert_refused(call(*arguments), "00001/model.safetensors is not a model that a2s wrote")
    assert not list(out.glob("*.png"))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *(("width", value) for value in ("x", "1000000000000", "9" * 5000)),
        *(("image_size", value) for value in ("x", "0", "1000000000000")),
        ("resize_filter", "x"),
        ("kind", ""),
    ],
)
def test_metadata_that_cannot_be(root: Path, entry: str, value: str) -> None:
    forge(root / "stage2", "model.safetensors", lambda _, metadata: metadata.update({entry: value}))
    images = ("predict", next((root / "data").glob("*.tar")), "--workers", 0)
    done = call(*images, "--model", root / "stage2", "--out", root / "out")
    assert_refused(done, entry)
