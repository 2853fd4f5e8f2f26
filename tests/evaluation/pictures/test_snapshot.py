"""Snapshots of a stage-2 run, and the strips that are made of them (figures 7, 10)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from grid_cells import cells_of, is_empty, read_png, shows
from status_folders import ask

from a2s.__main__ import run as run_command
from a2s.commands import predict
from a2s.config.commands import PredictConfig
from a2s.data.images import decode, decode_mask, encode_png
from a2s.data.index import Index
from a2s.errors import CheckpointError, ConfigError, DataError, LabelError
from a2s.evaluation.pictures.snapshot import load, snapshot
from a2s.labels.store.generations import Generation
from a2s.labels.store.reader import resize
from a2s.paper.figures import fig7_10
from a2s.storage import checkpoints


@pytest.fixture(scope="module")
def keys(packed: Path) -> list[str]:
    return Index.load(packed).keys.to_pylist()[:3]


@pytest.fixture(scope="module")
def taken(stage2: Path, packed: Path, labels: Path, keys: list[str], tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("snapshot") / "2"
    done = snapshot(stage2, data=packed, labels=labels, keys=keys, out=out, epoch=2)
    assert (done.epoch, done.generation, done.keys) == (2, 1, tuple(keys))
    # The second image never had a label.
    assert done.without_label == (keys[1],)
    assert done.without_prediction == ()
    return out


def test_labels_are_those_of_the_committed_generation(
    taken: Path, stage2: Path, packed: Path, keys: list[str]
) -> None:
    generation, index = Generation.load(stage2 / "labels", 1), Index.load(packed)
    assert sorted(path.name for path in taken.glob("*.label.png")) == sorted(
        f"{key}.label.png" for key in (keys[0], keys[2])
    )
    for row in (0, 2):
        size = (int(index.height_N[row]), int(index.width_N[row]))
        expected_HW = resize(generation.read(row), height=size[0], width=size[1]) * 255
        label_HW = decode_mask((taken / f"{keys[row]}.label.png").read_bytes())
        assert label_HW.shape == size
        assert np.abs(label_HW - expected_HW).max() <= 0.5 + 1e-4
        assert not set(np.unique(label_HW)) <= {0, 255}


def test_predictions_are_those_of_the_predict_command(
    taken: Path, stage2: Path, packed: Path, keys: list[str], tmp_path: Path
) -> None:
    config = PredictConfig(model=stage2, images=(str(packed),), out=tmp_path / "p", workers=0)
    assert predict.run(config) == 0
    for key in keys:
        ours_HW = decode_mask((taken / f"{key}.prediction.png").read_bytes()).astype(int)
        theirs_HW = decode_mask((tmp_path / "p" / f"{key}.png").read_bytes())
        # One at a time here, eight together there: sums may round differently.
        assert np.abs(ours_HW - theirs_HW).max() <= 1


@pytest.mark.parametrize("name", ["snapshot.json", "a.label.png", "a.prediction.png"])
def test_a_damaged_snapshot_is_taken_again_or_told(
    taken: Path, stage2: Path, packed: Path, labels: Path, keys: list[str], tmp_path: Path, name
) -> None:
    out = shutil.copytree(taken, tmp_path / "taken")
    file = out / name.replace("a.", f"{keys[0]}.")
    before = file.read_bytes()
    given = {"data": packed, "labels": labels, "keys": keys, "out": out}
    for damaged in (before[:-3], bytes([*before[:-1], before[-1] ^ 1])):
        file.write_bytes(damaged)
        if name != "snapshot.json":
            # The run has gone on, or is gone.
            with pytest.raises(DataError, match="is not what was written, and"):
                snapshot(tmp_path / "gone", **given, epoch=2)
        snapshot(stage2, **given, epoch=2)
        assert file.read_bytes() == before


def test_a_finished_snapshot_is_kept(
    taken: Path, stage2: Path, packed: Path, labels: Path, keys: list[str]
) -> None:
    """Also when the run is gone, or has gone on."""
    before = {path: path.stat().st_mtime_ns for path in taken.iterdir()}
    gone = stage2.with_name("gone")
    again = snapshot(gone, data=packed, labels=labels, keys=keys, out=taken, epoch=2)
    assert again == load(taken)
    assert {path: path.stat().st_mtime_ns for path in taken.iterdir()} == before
    with pytest.raises(CheckpointError, match="gone has no commit"):
        snapshot(gone, data=packed, labels=labels, keys=keys[:1], out=taken, epoch=2)


def test_while_lambda_is_1_labels_are_those_of_the_shards(
    stage2: Path, packed: Path, labels: Path, keys: list[str], tmp_path: Path
) -> None:
    run = _back_to_epoch_1(stage2, tmp_path / "run")
    done = snapshot(run, data=packed, labels=labels, keys=keys, out=tmp_path / "1", epoch=1)
    assert (done.epoch, done.generation, done.without_label) == (1, 0, (keys[1],))
    stored = Index.load(labels)
    row = int(stored.rows_of([keys[2]])[0])
    assert (
        decode_mask((tmp_path / "1" / f"{keys[2]}.label.png").read_bytes())
        == decode_mask(stored.read(row))
    ).all()


def _back_to_epoch_1(stage2: Path, run: Path) -> Path:
    shutil.copytree(stage2, run)
    (run / "commits" / "00002.json").unlink()
    return run


def test_only_the_end_of_the_epoch_that_was_asked_for(
    stage2: Path, packed: Path, labels: Path, keys: list[str], tmp_path: Path
) -> None:
    arguments = {"data": packed, "labels": labels, "keys": keys, "out": tmp_path / "x"}
    with pytest.raises(CheckpointError, match="stands after epoch 2, not 1"):
        snapshot(stage2, **arguments, epoch=1)
    run = _back_to_epoch_1(stage2, tmp_path / "run")
    commit = run / "commits" / "00001.json"
    record = json.loads(commit.read_text())
    record["state"] |= {"step": 1}
    commit.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="stands at step 1 of epoch 2"):
        snapshot(run, **arguments)
    assert load(tmp_path / "x") is None


def test_refusals(
    stage2: Path, packed: Path, labels: Path, keys: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no image with the key nobody"):
        snapshot(stage2, data=packed, labels=labels, keys=["nobody"], out=tmp_path / "x")
    run = tmp_path / "run"
    shutil.copytree(stage2, run)
    (rows,) = (run / "labels").rglob("*.rows")
    rows.write_bytes(b"damaged")
    with pytest.raises(LabelError):
        snapshot(run, data=packed, labels=labels, keys=keys, out=tmp_path / "x")
    assert load(tmp_path / "x") is None
    assert checkpoints.last_commit(run) is not None


def test_the_command(
    taken: Path, stage2: Path, packed: Path, labels: Path, keys: list[str], tmp_path: Path, capsys
) -> None:
    out = tmp_path / "s"
    flags = ["--model", str(stage2), "--data", str(packed), "--labels", str(labels)]
    command = ["snapshot", *flags, "--out", str(out), "--epoch", "2"]
    assert run_command([*command, "--keys", *keys]) == 0
    printed = capsys.readouterr().out
    assert f"1 images have no label: {keys[1]}" in printed
    assert f"3 images after epoch 2 in {out}" in printed
    for path in taken.glob("*.png"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    found = ask(out, capsys)
    assert (found["command"], found["state"]) == ("snapshot", "finished")
    assert run_command([*command, "--keys", *keys]) == 0
    with pytest.raises(ConfigError, match="keys"):
        run_command([*command, "--keys", keys[0]])
    with pytest.raises(CheckpointError, match="stands after epoch 2, not 1"):
        run_command(["snapshot", *flags, "--out", str(tmp_path / "t"), "--epoch", "1"])
    # A refusal leaves nothing that would bar the right command.
    assert run_command(["snapshot", *flags, "--out", str(tmp_path / "t"), "--images", "2"]) == 0
    assert load(tmp_path / "t").keys == (min(all_keys(packed)), max(all_keys(packed)))


def all_keys(packed: Path) -> list[str]:
    return Index.load(packed).keys.to_pylist()


def test_figure_7(
    taken: Path, stage2: Path, packed: Path, labels: Path, keys: list[str], tmp_path: Path
) -> None:
    first = tmp_path / "1"
    run = _back_to_epoch_1(stage2, tmp_path / "run")
    snapshot(run, data=packed, labels=labels, keys=keys, out=first, epoch=1)
    truth = tmp_path / "truth"
    truth.mkdir()
    for key in keys:
        (truth / f"{key}.png").write_bytes(encode_png(np.full((9, 9), 50, np.uint8)))
    drawn = fig7_10.fig7(
        tmp_path,
        data=packed,
        truth=truth,
        runs={"with OLR": {1: first, 2: taken}, "without OLR": {1: first}},
    )
    assert drawn.empty == tuple(
        f"epoch {epoch}, {keys[1]} {run}: label: missing"
        for run, epoch in (("with OLR", 1), ("with OLR", 2), ("without OLR", 1))
    )
    cells = cells_of(read_png(drawn.path), rows=12, titles=3, row_titles=True)
    index = Index.load(packed)
    for number, key in enumerate(keys):
        image_HW3 = decode(index.read(number))
        block = cells[4 * number : 4 * number + 4]
        assert shows(block[0][0], image_HW3)
        assert shows(block[1][0], np.full(image_HW3.shape[:2], 50, np.uint8))
        assert (block[2][0] == 255).all()
        for column, folder in ((1, first), (2, taken)):
            for row, what in ((0, "label"), (1, "prediction")):
                path = folder / f"{key}.{what}.png"
                if path.exists():
                    assert shows(block[row][column], decode_mask(path.read_bytes()))
                else:
                    assert is_empty(block[row][column])
        # A run that ended earlier leaves the rest of its rows blank.
        assert (block[3][2] == 255).all()


def test_figure_10(
    taken: Path, packed: Path, labels: Path, keys: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(taken, broken)
    path = broken / f"{keys[2]}.prediction.png"
    path.write_bytes(path.read_bytes()[:80])
    drawn = fig7_10.fig10(
        tmp_path,
        data=packed,
        labels=labels,
        runs={"MINet": {2: broken}, "ours": {2: taken}},
        keys=[keys[0], keys[2]],
    )
    (named,) = drawn.empty
    assert named.startswith(f"MINet, epoch 2, {keys[2]}: ")
    cells = cells_of(read_png(drawn.path), rows=2, titles=4)
    stored = Index.load(labels)
    assert shows(cells[0][1], decode_mask(stored.read(int(stored.rows_of([keys[0]])[0]))))
    for row, key in ((0, keys[0]), (1, keys[2])):
        prediction_HW = decode_mask((taken / f"{key}.prediction.png").read_bytes())
        assert shows(cells[row][3], prediction_HW)
    assert shows(cells[0][2], decode_mask((broken / f"{keys[0]}.prediction.png").read_bytes()))
    assert is_empty(cells[1][2])


def test_strips_need_a_snapshot(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 folders holds a finished snapshot"):
        fig7_10.fig7(tmp_path, data=packed, runs={"x": {1: tmp_path}})
