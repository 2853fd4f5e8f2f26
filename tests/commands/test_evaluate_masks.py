"""`a2s evaluate` with truths as other programs store them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from a2s.commands import evaluate
from a2s.config.commands import EvaluateConfig
from a2s.errors import ConfigError, DataError

Map = NDArray[np.uint8]


def mask(number: int) -> Map:
    mask_HW = np.zeros((30, 40), np.uint8)
    mask_HW[5 : 12 + number, 8:25] = 255
    return mask_HW


def folders(root: Path, save: Callable[[Map, Path], object]) -> Path:
    for name in ("pred", "truth"):
        (root / name).mkdir(parents=True)
    for number in range(3):
        shifted = np.roll(mask(number), 2, axis=1) // 2
        Image.fromarray(shifted).save(root / "pred" / f"{number}.png")
        save(mask(number), root / "truth" / f"{number}.png")
    return root


def scores(root: Path, **settings: Any) -> dict[str, Any]:
    values = {"pred": root / "pred", "truth": root / "truth", "out": root / "out", **settings}
    assert evaluate.run(EvaluateConfig(**values)) == 0
    found: dict[str, Any] = json.loads((values["out"] / "scores.json").read_text())
    return found


def with_palette(mask_HW: Map) -> Image.Image:
    image = Image.fromarray(mask_HW // 255, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return image


def over_black(mask_HW: Map) -> Image.Image:
    return Image.fromarray(np.dstack([np.zeros_like(mask_HW)] * 3 + [mask_HW]))


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (lambda mask_HW: Image.fromarray(mask_HW // 255), "truths read 3 as numbers"),
        (with_palette, "truths read 3 as a colour per object"),
        (over_black, "truths read 3 as opacity"),
        (lambda mask_HW: Image.fromarray(mask_HW.astype(np.uint16)), "truths read 3 as 16 bits"),
    ],
)
def test_a_truth_has_the_same_scores_however_it_is_stored(
    store: Callable[[Map], Image.Image],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = scores(folders(tmp_path / "plain", lambda m, path: Image.fromarray(m).save(path)))
    assert "truths read" not in capsys.readouterr().out
    found = scores(folders(tmp_path / "stored", lambda m, path: store(m).save(path)))
    for name in ("adaptive_f", "mae", "s_measure", "max_f", "num_empty_truth"):
        assert found[name] == plain[name], name
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("grey", "cause"), [(0, "has a salient pixel"), (100, "below 128"), (255, "photographs")]
)
def test_truths_without_two_sides_end_with_the_likely_cause(
    grey: int, cause: str, tmp_path: Path
) -> None:
    def flat(mask_HW: Map, path: Path) -> None:
        Image.fromarray(np.full_like(mask_HW, grey)).save(path)

    root = folders(tmp_path / "flat", flat)
    with pytest.raises(DataError, match=cause):
        scores(root)
    assert not (root / "out/scores.json").exists()
    # The folder is free for the corrected command.
    other = folders(tmp_path / "good", lambda m, path: Image.fromarray(m).save(path))
    assert scores(root, truth=other / "truth")["num_images"] == 3


def test_inverted_truths_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores(folders(tmp_path / "good", lambda m, path: Image.fromarray(m).save(path)))
    assert "warning" not in capsys.readouterr().out
    scores(folders(tmp_path / "inverted", lambda m, path: Image.fromarray(255 - m).save(path)))
    assert "are these masks inverted" in capsys.readouterr().out


def test_one_empty_truth_among_others_is_counted(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", lambda m, path: Image.fromarray(m).save(path))
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(root / "truth/0.png")
    assert scores(root)["num_empty_truth"] == 1


def test_a_prediction_in_alpha_is_scored_by_its_alpha(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", lambda m, path: Image.fromarray(m).save(path))
    plain = scores(root)
    for path in sorted((root / "pred").glob("*.png")):
        map_HW = np.array(Image.open(path))
        over_black(map_HW).save(path)
    assert scores(root)["mae"] == plain["mae"]


def plain(mask_HW: Map, path: Path) -> None:
    Image.fromarray(mask_HW).save(path)


def test_masks_of_other_names_are_paired_by_a_pattern(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", plain)
    for path in sorted((root / "truth").glob("*.png")):
        path.rename(path.with_name(f"{path.stem}-gt.png"))
    with pytest.raises(
        DataError, match=r"--mask-pattern '\{stem\}-gt.png' would pair 0-gt.png with 0"
    ):
        scores(root)
    assert scores(root, mask_pattern="{stem}-gt.png")["num_images"] == 3
    # Flat masks of predictions in folders.
    for path in sorted((root / "pred").glob("*.png")):
        (root / "pred" / f"part{path.stem}").mkdir()
        path.rename(root / "pred" / f"part{path.stem}" / path.name)
    found = scores(root, mask_pattern="{name}-gt.png", out=root / "flat")
    assert (found["num_images"], found["num_missing_truth"], found["num_missing_pred"]) == (3, 0, 0)


def test_a_pattern_is_for_files(tmp_path: Path) -> None:
    root = folders(tmp_path / "a", plain)
    with pytest.raises(ConfigError, match="goes with --truth"):
        scores(root, truth=None, benchmark=("ECSSD", root), mask_pattern="{stem}.png")


@pytest.mark.parametrize("suffix", [".PNG", ".jpg", ".tif", ".jfif"])
def test_predictions_of_any_image_format_and_linked_folders(suffix: str, tmp_path: Path) -> None:
    root = folders(tmp_path / "a", plain)
    for path in sorted((root / "pred").glob("*.png")):
        Image.open(path).convert("L").save(path.with_suffix(".jpeg"), quality=95)
        source = path if suffix == ".PNG" else path.with_suffix(".jpeg")
        if suffix == ".tif":
            Image.open(path).save(path.with_suffix(".tiff"))
            source = path.with_suffix(".tiff")
        source.rename(path.with_suffix(suffix))
        for rest in (path, path.with_suffix(".jpeg")):
            rest.unlink(missing_ok=True)
    for name in ("pred", "truth"):
        (root / name).rename(root / f"{name}-elsewhere")
        (root / name).mkdir()
        (root / name / "linked").symlink_to(root / f"{name}-elsewhere")
    assert scores(root)["num_images"] == 3


def test_what_is_left_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folders(tmp_path / "a", plain)
    (root / "truth/9.gif").write_bytes(b"GIF89a")
    (root / "pred/notes.md").write_text("x")
    (root / "pred/0.overlay.jpg").write_bytes(b"x")
    for record in ("config.yaml", "environment.json", "written.txt"):
        (root / "pred" / record).touch()
    Image.new("L", (4, 4)).save(root / "pred/1.jpg")
    scores(root)
    printed = capsys.readouterr().out
    assert "left out of the folder of the truth: 1 .gif" in printed
    assert "left out of the folder of the predictions: 1 .md, 1 cut-outs and overlays" in printed
    missing = json.loads((root / "out/missing.json").read_text())
    assert missing["prediction_of_same_name_ignored"] == ["1.jpg"]
