"""`a2s import-weights` and `a2s export-weights` on real files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import authors_checkpoints as theirs
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from a2s.commands import export_weights, import_weights
from a2s.config.commands import ExportWeightsConfig, ImportWeightsConfig
from a2s.errors import ConfigError, WeightsError
from a2s.models import saved
from a2s.models.activation_net import ActivationNet
from a2s.models.encoders import build_encoder
from a2s.storage import checkpoints, hashing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Files of 100 MB each; they are deleted after the tests."""
    path = tmp_path_factory.mktemp("released")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def stage1(folder: Path) -> Path:
    torch.save(theirs.checkpoint(1), folder / "mnet.pth")
    return folder / "mnet.pth"


@pytest.fixture(scope="module")
def stage2(folder: Path) -> Path:
    torch.save(theirs.checkpoint(2), folder / "cornet.pth")
    return folder / "cornet.pth"


def run_import(file: Path, out: Path) -> Path:
    assert import_weights.run(ImportWeightsConfig(file=file, out=out)) == 0
    return out


@pytest.fixture(scope="module")
def activation(stage1: Path, folder: Path) -> Path:
    return run_import(stage1, folder / "activation.safetensors")


@pytest.fixture(scope="module")
def detector(stage2: Path, folder: Path) -> Path:
    return run_import(stage2, folder / "new folder" / "detector.safetensors")


@pytest.fixture
def temporary(folder: Path) -> Iterator[Path]:
    (folder / "temporary").mkdir()
    yield folder / "temporary"
    shutil.rmtree(folder / "temporary")


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="np") as opened:
        return dict(opened.metadata())


def assert_same_tensors(one: Path, other: Path) -> None:
    ours, again = load_file(one), load_file(other)
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_a_model_says_where_it_came_from(
    stage1: Path, stage2: Path, activation: Path, detector: Path
) -> None:
    for file, source, kind in ((activation, stage1, "activation"), (detector, stage2, "detector")):
        assert (
            metadata(file).items()
            >= {
                "kind": kind,
                "encoder.name": "resnet50",
                "image_size": "320",
                "preset": "official",
                "source_sha256": hashing.sha256_file(source),
            }.items()
        )
    assert metadata(activation)["fusion_stride"] == "2"
    assert metadata(activation)["e5_scale"] == "true"


def in_wrappers(state: theirs.State, path: Path) -> None:
    inner = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 20, "state_dict": OrderedDict(inner), "best": 0.5}, path)


FORMATS: dict[str, Callable[[theirs.State, Path], None]] = {
    "old.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "wrapped.pth.tar": in_wrappers,
    "plain.safetensors": save_file,
}


@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_give_the_same_model(name: str, activation: Path, temporary: Path) -> None:
    FORMATS[name](theirs.checkpoint(1), temporary / name)
    assert_same_tensors(run_import(temporary / name, temporary / "out.safetensors"), activation)


@pytest.mark.parametrize("kind", ["activation", "detector"])
def test_import_then_export_gives_the_same_file(
    kind: str, request: pytest.FixtureRequest, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model: Path = request.getfixturevalue(kind)
    source = theirs.checkpoint(1 if kind == "activation" else 2)
    config = ExportWeightsConfig(model=model, out=temporary / "back.safetensors")
    assert export_weights.run(config) == 0
    back = load_file(config.out)
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], value) for name, value in source.items())
    assert metadata(config.out)["model_sha256"] == hashing.sha256_file(model)

    before = config.out.stat()
    capsys.readouterr()
    assert export_weights.run(config) == 0
    assert "done already" in capsys.readouterr().out
    assert config.out.stat().st_mtime_ns == before.st_mtime_ns
    assert_same_tensors(run_import(config.out, temporary / "again.safetensors"), model)


def test_a_run_is_exported_to_their_layout(temporary: Path) -> None:
    network = ActivationNet(build_encoder("resnet50"), fusion_stride=2)
    checkpoints.save(
        temporary / "run",
        1,
        model=network.state_dict(),
        metadata={**network.spec(), "image_size": "320", "resize_filter": "bilinear"},
        optimizer={},
        state={"epoch": 1, "step": 0, "finished": True},
    )
    config = ExportWeightsConfig(model=temporary / "run", out=temporary / "back.safetensors")
    assert export_weights.run(config) == 0
    network_again, _ = saved.load_model(run_import(config.out, temporary / "again.safetensors"))
    state = network_again.state_dict()
    assert torch.equal(state.pop("heads.0.e5_scale_C"), torch.ones(2048))
    assert all(torch.equal(state[name], value) for name, value in network.state_dict().items())


def test_the_same_command_again_does_nothing(
    stage1: Path, stage2: Path, activation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = activation.stat().st_mtime_ns
    run_import(stage1, activation)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        f"import-weights: done already: {activation} was made from {stage1}",
        f"next: a2s label --model {activation} --data DATA --out labels/activation",
    ]
    with pytest.raises(ConfigError, match="was made from something else"):
        run_import(stage2, activation)
    assert activation.stat().st_mtime_ns == before


class Payload:
    """Would make a file if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.trace), "w")


def half(source: Path, path: Path) -> None:
    content = source.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(source: Path, path: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def half_old(source: Path, path: Path) -> None:
    torch.save(theirs.checkpoint(1), path, _use_new_zipfile_serialization=False)
    half(path, path)


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "half": (half, r"x\.pth cannot be read as \.pth \(RuntimeError: .*central directory"),
    "half of an old file": (half_old, r"x\.pth cannot be read as \.pth \(RuntimeError: .*EOF"),
    "one bit": (flipped, r"x\.pth is damaged \(checksum of its .*/data/\d+\); get it again"),
    "empty": (lambda _, path: path.touch(), r"x\.pth cannot be read"),
    "code": (
        lambda _, path: torch.save({"state_dict": Payload(path.with_name("trace"))}, path),
        "Python objects besides tensors, which may run code and are refused",
    ),
    "absent": (lambda _, path: None, r"x\.pth is not a file"),
    "folder": (lambda _, path: path.mkdir(), r"x\.pth is not a file"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_and_foreign_files_are_refused_in_one_line(
    case: str, stage1: Path, temporary: Path
) -> None:
    write, complaint = DAMAGE[case]
    write(stage1, temporary / "x.pth")
    with pytest.raises(WeightsError, match=complaint) as caught:
        run_import(temporary / "x.pth", temporary / "out.safetensors")
    assert "\n" not in str(caught.value)
    assert {path.name for path in temporary.iterdir()} <= {"x.pth"}


def test_on_the_command_line(stage2: Path, temporary: Path) -> None:
    def a2s(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "a2s", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    out = temporary / "detector.safetensors"
    done = a2s("import-weights", stage2, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"import-weights: {out} holds the detector network of {stage2}, 366 tensors; not read by "
        "it, kept for the way back: encoder.fc.weight, encoder.fc.bias",
        f"next: a2s predict IMAGES --model {out} --out preds/detector",
    ]
    wrong = a2s("export-weights", out, "--out", temporary / "back.pth")
    assert wrong.returncode == 2
    assert "must end in .safetensors" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
