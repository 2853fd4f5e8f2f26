"""`a2s evaluate` on real folders: pairing, missing and damaged files, resizing, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from a2s.commands import evaluate, verify
from a2s.config.checks import VerifyConfig
from a2s.config.commands import EvaluateConfig
from a2s.data.images import encode_png
from a2s.data.shards import ShardWriter
from a2s.errors import ConfigError, DataError
from a2s.evaluation.metrics import score

Map = NDArray[np.uint8]
NAMES = ["a", "sub/b", "naïve café", "c.v2"]


def pictures(number: int, *, height: int = 40, width: int = 52) -> tuple[Map, Map]:
    rng = np.random.default_rng(number)
    truth = np.zeros((height, width), dtype=np.uint8)
    truth[8 : 20 + number, 10 : 30 + number] = 255
    noise = rng.integers(0, 90, truth.shape)
    return np.clip(np.roll(truth, 3, 1) * 0.7 + noise, 0, 255).astype(np.uint8), truth


def write(path: Path, picture: Map) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(picture))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        prediction, truth = pictures(number)
        write(tmp_path / "pred" / f"{name}.png", prediction)
        write(tmp_path / "truth" / f"{name}.png", truth)
    return tmp_path


def run(root: Path, *, out: str = "out", **settings: Any) -> tuple[int, dict[str, Any]]:
    values = {"pred": root / "pred", "truth": root / "truth", "out": root / out, **settings}
    code = evaluate.run(EvaluateConfig(**values))
    return code, json.loads((values["out"] / "scores.json").read_text())


def test_scores_are_the_means_over_the_pairs(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "pred" / "a.cutout.png").write_bytes(b"not a map")
    (folders / "pred" / "a.overlay.jpg").write_bytes(b"not a map")
    code, scores = run(folders)
    rows = [score(*_for_score(number)).row() for number in range(len(NAMES))]
    assert code == 0
    for name in ("mae", "adaptive_f", "weighted_f", "s_measure"):
        assert scores[name] == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-12)
    assert scores["num_images"] == 4
    assert scores["num_missing_truth"] == scores["num_resized"] == scores["num_failed"] == 0
    assert scores["metric_library"] == "pysodmetrics"
    assert all(not isinstance(value, dict | list) for value in scores.values())
    table = pq.read_table(folders / "out" / "images.parquet").to_pydict()
    assert table["key"] == sorted(["a", "sub/b", "na%C3%AFve%20caf%C3%A9", "c%2Ev2"])
    assert f"{scores['adaptive_f']:.4f}" in capsys.readouterr().out
    assert {path.name for path in (folders / "out").iterdir()} == {
        ".lock",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "scores.json",
        "images.parquet",
        "missing.json",
        "failures.jsonl",
        "pr_curve.svg",
        "curves.json",
        "f_curve.svg",
        "written.txt",
    }


def _for_score(number: int) -> tuple[Map, NDArray[np.bool_]]:
    prediction, truth = pictures(number)
    return prediction, truth > 128


def test_a_second_call_does_nothing_and_another_folder_gets_the_same_bytes(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folders)
    first = {path.name: path.read_bytes() for path in (folders / "out").iterdir()}
    capsys.readouterr()
    run(folders)
    assert "done already" in capsys.readouterr().out
    run(folders, out="other")
    for name in ("scores.json", "images.parquet", "curves.json", "pr_curve.svg", "f_curve.svg"):
        assert (folders / "other" / name).read_bytes() == first[name], name


@pytest.mark.parametrize(
    "name", ["scores.json", "images.parquet", "curves.json", "missing.json", "f_curve.svg"]
)
def test_a_damaged_file_is_found_and_made_again(
    folders: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folders)
    out = folders / "out"
    names = [path.name for path in out.iterdir() if path.suffix in (".json", ".svg", ".parquet")]
    first = {name: (out / name).read_bytes() for name in names if name != "environment.json"}
    # A digit or a letter: what is read is still of the right kind.
    at = first[name].index(b"e") if name != "images.parquet" else 200
    flipped = bytearray(first[name])
    flipped[at] ^= 1
    for damaged in (flipped, first[name][:-9]):
        (out / name).write_bytes(damaged)
        assert verify.run(VerifyConfig(folder=out)) == 3
        assert f"{out / name}: does not match its checksum" in capsys.readouterr().out
        run(folders)
        assert "done already" not in capsys.readouterr().out
        assert {name: (out / name).read_bytes() for name in first} == first
    assert verify.run(VerifyConfig(folder=out)) == 0


def test_changed_predictions_are_scored_again(folders: Path) -> None:
    _, before = run(folders)
    write(folders / "pred" / "a.png", pictures(0)[1])
    _, after = run(folders)
    assert after["mae"] < before["mae"]


def test_another_input_folder_is_refused(folders: Path) -> None:
    run(folders)
    (folders / "pred").rename(folders / "moved")
    with pytest.raises(ConfigError, match="moved"):
        run(folders, pred=folders / "moved")


def test_another_size_is_resized_and_counted(folders: Path) -> None:
    prediction, truth = pictures(0)
    large = cv2.resize(prediction, (104, 80), interpolation=cv2.INTER_LINEAR)
    write(folders / "pred" / "a.png", np.asarray(large, dtype=np.uint8))
    _, scores = run(folders)
    assert scores["num_resized"] == 1
    rows = pq.read_table(folders / "out" / "images.parquet").to_pylist()
    row = next(row for row in rows if row["key"] == "a")
    back = np.asarray(cv2.resize(large, (52, 40), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    assert row["mae"] == score(back, truth > 128).mae
    assert row["resized"]
    assert (row["width"], row["height"]) == (52, 40)


def test_missing_partners_are_named_for_both_sides(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "pred" / "a.png").unlink()
    write(folders / "pred" / "extra.png", pictures(0)[0])
    code, scores = run(folders)
    assert code == 3
    assert (scores["num_missing_pred"], scores["num_missing_truth"]) == (1, 1)
    missing = json.loads((folders / "out" / "missing.json").read_text())
    assert missing["missing_pred"] == ["a"]
    assert missing["missing_truth"] == ["extra"]
    printed = capsys.readouterr().out
    assert "truths without a prediction (not scored): a;" in printed
    code, _ = run(folders, max_failure_rate=0.25)
    assert code == 0


def test_damaged_files_are_counted_and_the_rest_scored(folders: Path) -> None:
    (folders / "pred" / "a.png").write_bytes(b"")
    path = folders / "truth" / "sub" / "b.png"
    path.write_bytes(path.read_bytes()[:60])
    code, scores = run(folders)
    assert code == 3
    assert (scores["num_images"], scores["num_failed"]) == (2, 2)
    lines = (folders / "out" / "failures.jsonl").read_text().splitlines()
    failures = {failure["key"]: failure for failure in map(json.loads, lines)}
    assert failures["a"]["reason"] == "empty"
    assert failures["a"]["path"].endswith("pred/a.png")
    assert failures["sub/b"]["path"].endswith("truth/sub/b.png")


def test_a_photograph_next_to_its_mask_is_no_second_truth(folders: Path) -> None:
    photo = np.full((40, 52, 3), 7, dtype=np.uint8)
    (folders / "truth" / "a.jpg").write_bytes(cv2.imencode(".jpg", photo)[1].tobytes())
    code, scores = run(folders)
    assert code == 0
    assert scores["num_empty_truth"] == 0
    missing = json.loads((folders / "out" / "missing.json").read_text())
    assert missing["truth_of_same_name_ignored"] == ["a.jpg"]


def test_shards_on_both_sides_give_the_same_scores(folders: Path) -> None:
    for side in ("labels", "data"):
        (folders / side).mkdir()
        with ShardWriter(folders / side) as writer:
            for number, key in enumerate(["a", "sub/b", "na%C3%AFve%20caf%C3%A9", "c%2Ev2"]):
                prediction, truth = (encode_png(picture) for picture in pictures(number))
                members = {"png": prediction}
                writer.add(key, members if side == "labels" else members | {"mask.png": truth})
    _, from_files = run(folders)
    _, from_shards = run(folders, out="o2", pred=folders / "labels", truth=folders / "data")
    del from_files["inputs_sha256"], from_shards["inputs_sha256"]
    assert from_shards == from_files


def test_no_common_key_names_both_folders(folders: Path) -> None:
    for path in sorted((folders / "pred").rglob("*.png")):
        path.rename(path.with_name(f"x_{path.name}"))
    with pytest.raises(DataError, match=r"no prediction in .* has the name of a truth"):
        run(folders)


def test_missing_folders_are_named(folders: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        run(folders, pred=folders / "nowhere")
    (folders / "bare").mkdir()
    with pytest.raises(DataError, match="no masks"):
        run(folders, truth=folders / "bare")


@pytest.mark.slow
def test_workers_of_ray_give_the_same_bytes(folders: Path) -> None:
    for number in range(40):
        prediction, truth = pictures(number % 5, height=44 + number)
        write(folders / "pred" / f"n{number}.png", prediction)
        write(folders / "truth" / f"n{number}.png", truth)
    run(folders)
    run(folders, out="ray", workers=2)
    for name in ("scores.json", "images.parquet", "pr_curve.svg"):
        assert (folders / "ray" / name).read_bytes() == (folders / "out" / name).read_bytes()
