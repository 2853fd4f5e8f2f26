"""`a2s evaluate --benchmark`: layouts as published and repacked, lists, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image
from repository import REPO
from scipy.io import savemat

from a2s.__main__ import run as a2s
from a2s.commands import evaluate
from a2s.config.base import BenchmarkName
from a2s.config.commands import EvaluateConfig
from a2s.data.images import encode_png
from a2s.errors import ConfigError, DataError
from a2s.evaluation.benchmarks import BENCHMARKS, find_benchmark

PUBLISHED = {
    "ECSSD": ("ECSSD/images/{}.jpg", "ECSSD/ground_truth_mask/{}.png"),
    "PASCAL-S": ("salObj/datasets/imgs/pascal/{}.jpg", "salObj/datasets/masks/pascal/{}.png"),
    "HKU-IS": ("HKU-IS/imgs/{}.png", "HKU-IS/gt/{}.png"),
    "DUTS-TE": ("DUTS-TE/DUTS-TE-Image/{}.jpg", "DUTS-TE/DUTS-TE-Mask/{}.png"),
    "DUT-OMRON": ("DUT-OMRON-image/DUT-OMRON-image/{}.jpg", "gt.zip/pixelwiseGT-new-PNG/{}.png"),
    "MSRA-B": ("MSRA-B/{}.jpg", "MSRA-B/{}.png"),
}
NAMES = ("0001", "0_1_1005", "sun_aaa")


def unpack(root: Path, layout: tuple[str, str], names: tuple[str, ...] = NAMES) -> None:
    """Photographs and masks; the mask's left third is salient."""
    mask = np.zeros((12, 15), np.uint8)
    mask[:, :5] = 255
    for pattern in layout:
        for name in names:
            path = root / pattern.format(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = mask if pattern == layout[1] else 255 - mask
            Image.fromarray(picture).save(path)


def predict(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    folder.mkdir()
    map_HW = np.full((12, 15), 20, np.uint8)
    map_HW[:, :6] = 230
    for name in names:
        (folder / f"{name}.png").write_bytes(encode_png(map_HW))
    return folder


def scores_of(tmp_path: Path, name: str, **settings: Any) -> tuple[int, dict[str, Any]]:
    values = {"pred": tmp_path / "pred", "benchmark": (name, tmp_path / "root"), **settings}
    code = evaluate.run(EvaluateConfig(out=tmp_path / "out", **values))
    return code, json.loads((tmp_path / "out" / "scores.json").read_text())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_published_layouts_are_recognised(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    unpack(root, PUBLISHED[name])
    (root / "__MACOSX" / "images").mkdir(parents=True)
    if name == "MSRA-B":
        savemat(root / "testImgSet.mat", {"testImgSet": [[f"{key}.jpg"] for key in NAMES]})
    predict(tmp_path / "pred")
    code, scores = scores_of(tmp_path, name)
    assert code == 0
    assert scores["benchmark"] == name
    assert scores["num_images"] == 3
    assert scores["num_benchmark"] == BENCHMARKS[name].num_images
    # It found the mask, not the photograph, whose left third is dark.
    assert scores["adaptive_f"] > 0.8
    assert "as published" in capsys.readouterr().out


@pytest.mark.parametrize(("images", "masks"), [("Image", "Mask"), ("images", "segmentations")])
def test_repacked_layouts_are_recognised(tmp_path: Path, images: str, masks: str) -> None:
    unpack(tmp_path / "root", (f"{images}/{{}}.jpg", f"{masks}/{{}}.png"))
    found = find_benchmark("DUTS-TE", tmp_path / "root")
    assert (found.images.name, found.masks.name) == (images, masks)


def test_sibling_folders_of_images_and_masks_are_a_pair(tmp_path: Path) -> None:
    for part in ("Test", "Train"):
        unpack(tmp_path / "root" / part, ("images/{}.jpg", "masks/{}.png"))
    (tmp_path / "root" / "masks").mkdir()
    found = find_benchmark("DUTS-TE", tmp_path / "root")
    assert found.images.parent == found.masks.parent == tmp_path / "root" / "Test"


@pytest.mark.parametrize("file", ["testImgSet.mat", "msra_b_test.txt", "test.lst"])
def test_only_the_test_part_is_scored(tmp_path: Path, file: str) -> None:
    root = tmp_path / "root"
    unpack(root, PUBLISHED["MSRA-B"])
    listed = NAMES[:2]
    if file.endswith(".mat"):
        cells = np.array([f"{name}.jpg" for name in listed], dtype=object)
        savemat(root / file, {"testImgSet": cells})
    else:
        (root / file).write_text(
            "".join(f"MSRA-B/{name}.jpg MSRA-B/{name}.png\n" for name in listed)
        )
    predict(tmp_path / "pred")
    code, scores = scores_of(tmp_path, "MSRA-B")
    assert (code, scores["num_images"], scores["num_missing_truth"]) == (0, 2, 1)


def test_without_the_list_of_the_test_part_nothing_is_scored(tmp_path: Path) -> None:
    unpack(tmp_path / "root", PUBLISHED["MSRA-B"])
    predict(tmp_path / "pred")
    with pytest.raises(DataError, match=r"no list of MSRA-B's 2,000 test images .*testImgSet"):
        scores_of(tmp_path, "MSRA-B")
    assert not (tmp_path / "out").exists()


def test_damaged_list(tmp_path: Path) -> None:
    unpack(tmp_path / "root", PUBLISHED["MSRA-B"])
    (tmp_path / "root" / "testImgSet.mat").write_bytes(b"MATLAB 5.0" * 40)
    predict(tmp_path / "pred")
    with pytest.raises(DataError, match=r"testImgSet.mat: "):
        scores_of(tmp_path, "MSRA-B")


def test_an_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "root" / "pictures").mkdir(parents=True)
    predict(tmp_path / "pred")
    with pytest.raises(DataError, match=r"not ECSSD as known: looked for images/ \+ ground_truth"):
        scores_of(tmp_path, "ECSSD")


def test_truth_or_benchmark(tmp_path: Path) -> None:
    predict(tmp_path / "pred")
    with pytest.raises(ConfigError, match="either --truth FOLDER or --benchmark NAME ROOT"):
        scores_of(tmp_path, "ECSSD", truth=tmp_path)
    with pytest.raises(ConfigError, match="ECSSD, PASCAL-S, HKU-IS"):
        evaluate.run(EvaluateConfig(pred=tmp_path / "pred", out=tmp_path / "out"))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unpack(tmp_path / "root", PUBLISHED["ECSSD"])
    predict(tmp_path / "pred")
    line = ["evaluate", "--pred", str(tmp_path / "pred"), "--out", str(tmp_path / "out")]
    assert a2s([*line, "--benchmark", "ECSSD", str(tmp_path / "root")]) == 0
    assert "which F: adaptive F" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="benchmark"):
        a2s([*line, "--benchmark", "ECSD", str(tmp_path / "root")])


def test_graded_and_empty_truths_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unpack(tmp_path / "root", PUBLISHED["PASCAL-S"])
    masks = tmp_path / "root" / "salObj" / "datasets" / "masks" / "pascal"
    graded = np.zeros((12, 15), np.uint8)
    graded[:, :5], graded[:, 5:8] = 200, 90
    Image.fromarray(graded).save(masks / "0001.png")
    Image.fromarray(np.zeros((12, 15), np.uint8)).save(masks / "sun_aaa.png")
    predict(tmp_path / "pred")
    _, scores = scores_of(tmp_path, "PASCAL-S")
    assert (scores["num_graded_truth"], scores["num_empty_truth"]) == (1, 1)
    assert scores["num_images"] == 3
    printed = capsys.readouterr().out
    assert "1 truths hold greys between 0 and 255; what is above 128" in printed
    assert "1 truths have no salient pixel; their F counts as 0" in printed


def test_the_authors_convention_is_another_run(tmp_path: Path) -> None:
    unpack(tmp_path / "root", PUBLISHED["ECSSD"])
    predict(tmp_path / "pred")
    _, library = scores_of(tmp_path, "ECSSD")
    with pytest.raises(ConfigError, match="convention"):
        scores_of(tmp_path, "ECSSD", parity={"convention": "official"})
    config = EvaluateConfig(
        pred=tmp_path / "pred",
        benchmark=("ECSSD", tmp_path / "root"),
        parity={"convention": "official"},
        out=tmp_path / "official",
    )
    assert evaluate.run(config) == 0
    official = json.loads((tmp_path / "official" / "scores.json").read_text())
    assert (library["convention"], official["convention"]) == ("pysodmetrics", "official")
    assert official["mae"] == library["mae"]
    assert 0 < abs(official["s_measure"] - library["s_measure"]) < 0.01


def test_every_benchmark_can_be_named_in_the_settings() -> None:
    assert get_args(BenchmarkName) == tuple(BENCHMARKS)


def test_the_page_lists_every_benchmark() -> None:
    page = (REPO / "docs" / "evaluate.md").read_text("utf-8")
    for benchmark in BENCHMARKS.values():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{benchmark.name}`"))
        assert str(benchmark.num_images) in row
        assert all(folder in row for folder in benchmark.folders[0])
