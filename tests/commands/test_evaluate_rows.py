"""The rows of baselines that `a2s evaluate` adds: the Gaussian always, RBD with --images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from a2s.commands import evaluate, predict, shard
from a2s.config.commands import EvaluateConfig, PredictConfig, ShardConfig
from a2s.config.parse import parse
from a2s.data.images import decode_mask, encode_png
from a2s.errors import DataError
from a2s.evaluation.metrics import score
from a2s.evaluation.pictures import outputs
from a2s.models.centre import centre


@pytest.fixture
def folders(tmp_path: Path, scenes: Any) -> Path:
    """Copies of the drawn test images and masks, and the masks shifted as predictions."""
    for name in ("images", "truth", "pred"):
        (tmp_path / name).mkdir()
    for file in scenes.images.iterdir():
        (tmp_path / "images" / file.name).write_bytes(file.read_bytes())
    for file in scenes.masks.iterdir():
        mask_HW = decode_mask(file.read_bytes())
        (tmp_path / "truth" / file.name).write_bytes(encode_png(mask_HW))
        (tmp_path / "pred" / file.name).write_bytes(encode_png(np.roll(mask_HW, 9, axis=1)))
    return tmp_path


def run(root: Path, *, images: tuple[str, ...] = (), **settings: Any) -> tuple[int, dict[str, Any]]:
    values = {"pred": root / "pred", "truth": root / "truth", "out": root / "out", **settings}
    code = evaluate.run(EvaluateConfig(**values, images=images))
    return code, json.loads((values["out"] / "scores.json").read_text())


def line_of(printed: str, row: str) -> str:
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{row} ")]
    return line


def truths(root: Path) -> list[np.ndarray]:
    return [decode_mask(file.read_bytes()) > 128 for file in sorted((root / "truth").iterdir())]


def test_without_images_rbd_is_asked_for(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, scores = run(folders)
    printed = capsys.readouterr().out
    assert code == 0
    assert line_of(printed, "rbd").split(maxsplit=1)[1] == "--images DIR adds this row"
    assert not [name for name in scores if name.startswith("rbd_")]
    assert not (folders / "out" / "rbd").exists()
    found = [score(centre(*truth.shape), truth) for truth in truths(folders)]
    expected = np.mean([image.adaptive_f for image in found])
    assert scores["centre_adaptive_f"] == pytest.approx(expected, abs=1e-12)
    assert f"{scores['centre_adaptive_f']:.4f}" in line_of(printed, "centre")
    assert f"{scores['adaptive_f']:.4f}" in line_of(printed, "predictions")


def test_border_numbers_per_image_and_in_total(folders: Path) -> None:
    _, scores = run(folders)
    rows = pq.read_table(folders / "out" / "images.parquet").to_pylist()
    for row, truth in zip(rows, truths(folders), strict=True):
        ring = [*truth[0], *truth[-1], *truth[1:-1, 0], *truth[1:-1, -1]]
        assert row["truth_ring_share"] == pytest.approx(np.mean(ring), abs=1e-12)
        assert row["touches_border"] == any(ring)
        assert row["centre_mae"] == score(centre(*truth.shape), truth).mae
        assert row["rbd_mae"] is None
    touching = [row["adaptive_f"] for row in rows if row["touches_border"]]
    others = [row["adaptive_f"] for row in rows if not row["touches_border"]]
    assert scores["num_touching"] == len(touching)
    for name, values in (("touching", touching), ("not_touching", others)):
        expected = pytest.approx(np.mean(values), abs=1e-12) if values else None
        assert scores[f"adaptive_f_{name}"] == expected
    assert scores["ring_share"] == pytest.approx(np.mean([row["ring_share"] for row in rows]))


def test_with_images_rbd_scores_as_its_maps_do(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, before = run(folders)
    images = (str(folders / "images"),)
    code, scores = run(folders, images=images)
    assert code == 0
    # The same folder, and nothing that was there has changed.
    kept = before.keys() - {"inputs_sha256"}
    assert {name: scores[name] for name in kept} == {name: before[name] for name in kept}
    maps = folders / "maps"
    predict.run(PredictConfig(model="rbd", images=images, out=maps))
    capsys.readouterr()
    _, alone = run(folders, pred=maps, out=folders / "alone")
    for name in ("adaptive_f", "mae", "weighted_f", "ring_share", "adaptive_f_not_touching"):
        assert scores[f"rbd_{name}"] == alone[name]
    capsys.readouterr()
    run(folders, images=images)
    printed = capsys.readouterr().out
    assert "done already" in printed
    assert f"{scores['rbd_adaptive_f']:.4f}" in line_of(printed, "rbd")


def test_images_may_be_a_list_or_shards(folders: Path) -> None:
    images = (str(folders / "images"),)
    _, expected = run(folders, images=images)
    listed = folders / "images" / "list.txt"
    listed.write_text("\n".join(file.name for file in sorted((folders / "images").iterdir())))
    packed = folders / "data"
    shard.run(ShardConfig(images=images, out=packed, workers=0))
    for number, source in enumerate((listed, packed)):
        _, found = run(folders, images=(str(source),), out=folders / f"out{number}")
        assert found["rbd_adaptive_f"] == expected["rbd_adaptive_f"]


def test_an_interrupted_call_computes_only_the_maps_that_are_missing(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = outputs._write, []

    def interrupted(picture: Any, answer: Any, places: Any, written: Any) -> None:
        calls.append(picture.key)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(picture, answer, places, written)

    monkeypatch.setattr(outputs, "_write", interrupted)
    settings = {"images": (str(folders / "images"),), "workers": 0}
    with pytest.raises(KeyboardInterrupt):
        run(folders, **settings)
    assert not (folders / "out" / "scores.json").exists()
    maps = {file: file.stat().st_mtime_ns for file in (folders / "out" / "rbd").glob("*.png")}
    assert len(maps) == 2
    _, scores = run(folders, **settings)
    assert scores["rbd_num_images"] == 4
    assert len(calls) == 3 + 2
    assert {file: file.stat().st_mtime_ns for file in maps} == maps


def test_an_unreadable_image_is_counted_and_listed(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = min((folders / "images").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:80])
    images = (str(folders / "images"),)
    code, scores = run(folders, images=images)
    printed = capsys.readouterr().out
    # The pair is scored; only the row of RBD lacks the image.
    assert (scores["num_images"], scores["num_failed"]) == (4, 0)
    assert (scores["rbd_num_images"], scores["num_missing_rbd"]) == (3, 1)
    assert code == 3
    assert "1 of 4 scored images have no map of RBD, over --max-failure-rate 0.01" in printed
    listed = json.loads((folders / "out" / "rbd" / "failures.jsonl").read_text())
    assert listed["key"] == damaged.stem
    missing = json.loads((folders / "out" / "missing.json").read_text())
    assert missing["missing_rbd"] == [damaged.stem]
    assert f"pairs without a map of RBD (not in its row): {damaged.stem}" in printed
    assert run(folders, images=images, max_failure_rate=0.25)[0] == 0


def test_a_damaged_map_of_rbd_is_listed_and_its_pair_scored(folders: Path) -> None:
    images = (str(folders / "images"),)
    _, before = run(folders, images=images)
    damaged = min((folders / "out" / "rbd").glob("*.png"))
    map_ = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    assert run(folders, images=images)[0] == 0
    assert damaged.read_bytes() == map_
    # Of the same size and date it is found when it is read.
    facts = damaged.stat()
    damaged.write_bytes(bytes(len(map_)))
    os.utime(damaged, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (folders / "out" / "scores.json").unlink()
    code, scores = run(folders, images=images)
    assert code == 3
    assert (scores["num_images"], scores["num_failed"], scores["rbd_num_images"]) == (4, 0, 3)
    assert scores["adaptive_f"] == before["adaptive_f"]
    listed = json.loads((folders / "out" / "failures.jsonl").read_text())
    assert listed["path"] == str(damaged)


def test_images_of_other_names_are_refused(folders: Path) -> None:
    for file in [*(folders / "images").iterdir()]:
        file.rename(file.with_name(f"x_{file.name}"))
    with pytest.raises(DataError, match=r"no image in .*images has the name of a truth"):
        run(folders, images=(str(folders / "images"),))


def test_scores_of_an_earlier_version_are_computed_again(folders: Path) -> None:
    run(folders)
    file = folders / "out" / "scores.json"
    old = {k: v for k, v in json.loads(file.read_text()).items() if not k.startswith("centre_")}
    file.write_text(json.dumps(old))
    _, scores = run(folders)
    assert scores["centre_num_images"] == 4


def test_the_flag_takes_several_inputs() -> None:
    flags = ["--pred", "p", "--truth", "t", "--out", "o", "--images", "a", "b.tar"]
    assert parse("evaluate", flags).images == ("a", "b.tar")
    assert parse("evaluate", flags[:-3]).images == ()
