"""The programs of `examples/`, run as users run them."""

from __future__ import annotations

import json
import re
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from repository import REPO

from a2s.commands.predict import run as run_predict
from a2s.config.commands import PredictConfig
from a2s.data.index import Index

EXAMPLES = sorted(path for path in (REPO / "examples").iterdir() if path.suffix != ".md")


@pytest.fixture
def run_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run an example with arguments, in this process, and return what it prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(REPO / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def folder(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, a stage-1 run and labels, made by an example."""
    out = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        size = ["--image-size", "64", "--epochs", "1"]
        patch.setattr("sys.argv", ["label_folder.py", str(scenes.train), str(out), *size])
        runpy.run_path(str(REPO / "examples" / "label_folder.py"), run_name="__main__")
    return out


def test_label_folder_makes_a_label_per_picture(folder: Path, scenes) -> None:
    labels = Index.load(folder / "labels")
    assert sorted(labels.keys.to_pylist()) == sorted(path.stem for path in scenes.train.iterdir())


# webdataset leaves it to the garbage collector to close a tar.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_read_shards_reads_every_sample(folder: Path, run_example) -> None:
    printed = run_example("read_shards.py", folder / "data", folder / "labels")
    assert len(re.findall(r"^\S+: \d+x\d+, [\d.]+% foreground$", printed, re.MULTILINE)) == 8


def test_filter_labels_keeps_what_passes(folder: Path, tmp_path: Path, run_example) -> None:
    labels = Index.load(folder / "labels")
    area_N = labels.column("area_share")
    largest = float(np.sort(area_N)[4])
    out = tmp_path / "kept"
    bounds = ["--min-area", 0, "--max-area", largest, "--max-border", 1, "--min-agreement", 0]
    assert "of 8 labels" in run_example("filter_labels.py", folder / "labels", out, *bounds)
    kept = Index.load(out)
    wanted = [labels.key(row) for row in np.flatnonzero(area_N <= largest)]
    assert kept.keys.to_pylist() == wanted
    assert 0 < len(kept) < 8
    row = kept.rows_by_key()[wanted[0]]
    assert kept.read(row) == labels.read(labels.rows_by_key()[wanted[0]])


def test_predict_one_answers_like_the_command(
    folder: Path, scenes, tmp_path: Path, run_example
) -> None:
    picture = sorted(scenes.images.iterdir())[0]
    run_example("predict_one.py", folder / "stage1", picture, tmp_path / "mask.png")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(picture, alone)
    config = PredictConfig(
        images=(str(alone),), model=folder / "stage1", out=tmp_path / "predicted", workers=0
    )
    assert run_predict(config) == 0
    ours, theirs = (
        np.asarray(Image.open(path)).astype(int)
        for path in (tmp_path / "mask.png", tmp_path / "predicted" / f"{picture.stem}.png")
    )
    # BatchNorm is folded there: equal but for rounding.
    assert np.abs(ours - theirs).max() <= 1


def test_cut_out_writes_a_picture_per_photo(
    folder: Path, scenes, tmp_path: Path, run_example
) -> None:
    photos = sorted(scenes.images.iterdir())[:2]
    printed = run_example("cut_out.py", tmp_path, *photos, "--model", folder / "stage1")
    assert re.findall(r": \d+% of (\S+) is foreground", printed) == list(map(str, photos))
    for photo in photos:
        with Image.open(tmp_path / f"{photo.stem}.png") as cut, Image.open(photo) as image:
            assert cut.mode == "RGBA"
            assert cut.width <= image.width
            assert cut.height <= image.height


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((REPO / "examples" / "first_steps.ipynb").read_text("utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    # Committed without results, which would be those of one machine.
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert len(names["predictions"]) == 4
    assert 0 <= names["scores"]["mae"] <= 1


def test_every_example_is_described_and_tested() -> None:
    described = (REPO / "examples" / "README.md").read_text("utf-8")
    tested = Path(__file__).read_text("utf-8")
    assert EXAMPLES
    for path in EXAMPLES:
        assert f"({path.name})" in described
        assert f'"{path.name}"' in tested
