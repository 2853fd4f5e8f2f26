"""`a2s export-model`: the same answers in other programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from documents import blocks
from PIL import Image
from repository import REPO

import a2s
from a2s.commands.export_model import run
from a2s.config.export import ExportModelConfig
from a2s.config.parse import parse
from a2s.errors import CheckpointError, ConfigError
from a2s.models import export
from a2s.models.saved import load_model
from a2s.storage import tensors

SHAPES = [(1, 33, 33), (2, 96, 160), (5, 71, 45)]


@pytest.fixture(scope="module")
def expected(detector_file: Path):
    """Saliency of the original network, by shape of the batch."""
    network = export.Saliency(load_model(detector_file)[0]).eval()
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(b, 3, h, w, generator=generator) for b, h, w in SHAPES]
    with torch.inference_mode():
        return [(image, network(image)) for image in images]


@pytest.fixture(scope="module")
def program_file(detector_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "detector.pt2"
    assert run(ExportModelConfig(model=detector_file, out=out)) == 0
    return out


@pytest.fixture(scope="module")
def onnx_file(detector_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime", reason="a2s[onnx] is not installed")
    out = tmp_path_factory.mktemp("exported") / "new" / "detector.onnx"
    assert a2s.Detector.load(detector_file).export(out) == out
    return out


def test_onnx_gives_the_same_for_any_size(onnx_file, detector_file, expected, capsys) -> None:
    import onnxruntime as ort

    out = onnx_file
    session = ort.InferenceSession(out, providers=["CPUExecutionProvider"])
    (input_,), (output,) = session.get_inputs(), session.get_outputs()
    assert (input_.name, input_.shape) == ("image", ["batch", 3, "height", "width"])
    assert (output.name, output.shape) == ("saliency", ["batch", 1, "height", "width"])
    for image, saliency in expected:
        (found,) = session.run(None, {"image": image.numpy()})
        assert np.abs(found - saliency.numpy()).max() <= 1e-4
        assert 0 <= found.min() < found.max() <= 1
    before = out.read_bytes()
    assert run(ExportModelConfig(model=detector_file, out=out)) == 0
    assert "done already" in capsys.readouterr().out
    assert out.read_bytes() == before
    assert export.made_from(out)["image_size"] == "64"


@pytest.fixture
def page() -> str:
    return (REPO / "docs" / "api.md").read_text("utf-8")


def test_the_program_on_the_page_predicts_like_a2s(
    onnx_file, detector_file, page, scenes, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(onnx_file, "detector.onnx")
    Image.open(sorted(scenes.images.iterdir())[0]).convert("RGB").save("photo.jpg")
    (program,) = (text for text in blocks(page, "python") if "onnxruntime" in text)
    exec(compile(program, "docs/api.md", "exec"), {})
    theirs = np.asarray(Image.open("mask.png")).astype(int)
    ours = a2s.Detector.load(detector_file).predict("photo.jpg").map.astype(int)
    # They enlarge saliency in whole steps, a2s logits.
    assert np.abs(theirs - ours).mean() < 2


@pytest.mark.slow
def test_a_program_gives_the_same_for_any_size(program_file, expected) -> None:
    found = torch.export.load(program_file).module()
    for image, saliency in expected:
        assert (found(image) - saliency).abs().max() <= 1e-4


def test_a_program_is_written_once(program_file, detector_file, capsys) -> None:
    before = program_file.stat().st_mtime_ns
    assert run(ExportModelConfig(model=detector_file, out=program_file)) == 0
    assert "done already" in capsys.readouterr().out
    assert program_file.stat().st_mtime_ns == before


@pytest.mark.parametrize("suffix", export.SUFFIXES)
def test_files_of_others_stay(detector_file, tmp_path, suffix: str) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime", reason="a2s[onnx] is not installed")
    out = tmp_path / f"mine{suffix}"
    out.write_bytes(b"mine")
    with pytest.raises(ConfigError, match="made from something else"):
        run(ExportModelConfig(model=detector_file, out=out))
    assert out.read_bytes() == b"mine"


@pytest.mark.slow
def test_a_network_that_depends_on_the_size_is_refused(minet_file, tmp_path) -> None:
    with pytest.raises(ConfigError, match="minet with mobilenet_v2 cannot be exported"):
        run(ExportModelConfig(model=minet_file, out=tmp_path / "minet.pt2"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_network_that_answers_otherwise_is_refused(detector_file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(ConfigError, match="nothing was written"):
        run(ExportModelConfig(model=detector_file, out=tmp_path / "x.pt2"))
    assert not list(tmp_path.iterdir())


def test_only_detectors_are_exported(tmp_path) -> None:
    file = tmp_path / "stage1.safetensors"
    tensors.write(file, {"x": torch.zeros(1)}, metadata={"kind": "activation"})
    with pytest.raises(CheckpointError, match="is of kind activation"):
        run(ExportModelConfig(model=file, out=tmp_path / "x.pt2"))


def test_the_suffix_is_the_format() -> None:
    with pytest.raises(ConfigError, match=r"must end in \.onnx or \.pt2"):
        parse("export-model", ["model.safetensors", "--out", "model.pb"])
