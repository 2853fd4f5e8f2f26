"""Decisions of a reviewer in stage 2: rejected images are left out, other decisions stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from processes import call, pack

from a2s.commands import label
from a2s.config.commands import LabelConfig
from a2s.data.images import decode_mask, encode_png
from a2s.data.index import Index
from a2s.labels.review import Decision, append_decisions, now, read_decisions, undo_decisions
from a2s.labels.store.generations import Generation
from a2s.labels.store.reader import resize

SIDE = 32


@pytest.fixture(scope="module")
def made(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and labels of which one is rejected, one accepted and one fixed."""
    root = tmp_path_factory.mktemp("review")
    pack(scenes.train, root / "data")
    assert label.run(label_config(root)) == 0
    index = Index.load(root / "labels")
    rejected, accepted, fixed = index.keys.to_pylist()[:3]
    mask_HW = np.zeros((int(index.height_N[2]), int(index.width_N[2])), np.uint8)
    mask_HW[10:40, 5:20] = 255
    decisions = [
        Decision(rejected, "rejected", None, now()),
        Decision(accepted, "accepted", None, now()),
        Decision(fixed, "fixed", encode_png(mask_HW), now()),
    ]
    append_decisions(root / "labels", decisions)
    return root


def label_config(root: Path) -> LabelConfig:
    return LabelConfig(model="rbd", data=root / "data", out=root / "labels", workers=0)


def stage2(root: Path, out: Path, *more: str):
    return call(
        *("stage2", "--data", root / "data", "--labels", root / "labels", "--out", out),
        *("--encoder.name", "mobilenet_v2", "--image-size", SIDE, "--batch-size", "2"),
        *("--loader-workers", "0", "--epochs", "2", "--warm-epochs", "0", "--lam", "0", *more),
    )


@pytest.fixture(scope="module")
def trained(made: Path) -> Path:
    done = stage2(made, made / "s2")
    assert done.code == 0, done.stderr
    assert "7 images, 1 left out" in done.stderr
    assert "1 accepted and 1 fixed labels stay as they are; 1 images are rejected" in done.stderr
    return made / "s2"


def test_rejected_images_are_left_out_and_listed(made: Path, trained: Path) -> None:
    (line,) = map(json.loads, (trained / "unlabelled.jsonl").read_text().splitlines())
    assert line["key"] == Index.load(made / "labels").key(0)
    assert line["reason"] == "rejected"
    assert line["key"] not in Index.load(trained / "rectified").keys.to_pylist()


def test_corrected_labels_hold_the_reviewer_s(made: Path, trained: Path) -> None:
    """With lambda 0 every other label becomes the prediction."""
    data, labels = Index.load(made / "data"), Index.load(made / "labels")
    generation, rectified = (
        Generation.load(trained / "labels", 2),
        Index.load(trained / "rectified"),
    )
    decisions = read_decisions(made / "labels")
    for row in range(1, 8):
        key = data.key(row)
        decision, stored = decisions.get(key), labels.read(int(labels.rows_of([key])[0]))
        png = decision.mask_png or stored if decision else stored
        label_SS = resize(decode_mask(png).astype(np.float32) / 255, height=SIDE, width=SIDE)
        is_kept = bool(np.abs(generation.read(row) - label_SS).max() < 1e-4)
        assert is_kept == (decision is not None), key
        final = rectified.read(int(rectified.rows_of([key])[0]))
        assert (final == png) == (decision is not None), key


def test_the_run_keeps_a_copy_of_the_decisions(made: Path, trained: Path) -> None:
    labels = Index.load(made / "labels")
    assert read_decisions(trained, labels) == read_decisions(made / "labels")


def test_interrupted_and_resumed_gives_the_same_network(made: Path, trained: Path) -> None:
    again = made / "again"
    assert stage2(made, again, "--until-epoch", "1").code == 0
    done = stage2(made, again)
    assert done.code == 0, done.stderr
    names = ["labels/generation-00002.table", "rectified/shard-000000.tar"]
    models = sorted(trained.glob("checkpoints/**/model*.safetensors"))
    assert models
    for name in [*names, str(models[-1].relative_to(trained))]:
        assert (again / name).read_bytes() == (trained / name).read_bytes(), name


def test_other_decisions_are_refused_by_a_run_that_has_begun(made: Path, trained: Path) -> None:
    half, labels = made / "half", made / "labels"
    assert stage2(made, half, "--until-epoch", "1").code == 0
    key = Index.load(labels).key(5)
    append_decisions(labels, [Decision(key, "accepted", None, now())])
    for out in (half, trained):
        done = stage2(made, out)
        assert done.code == 2
        assert "review.jsonl have changed since" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    undo_decisions(labels, [key])
    assert stage2(made, trained).code == 0


def test_labelling_again_leaves_decisions_alone(made: Path, tmp_path: Path) -> None:
    for name in ("data", "labels"):
        shutil.copytree(made / name, tmp_path / name)
    before = read_decisions(tmp_path / "labels")
    assert len(before) == 3
    (tmp_path / "labels" / "shard-000000.json").unlink()
    assert label.run(label_config(tmp_path)) == 0
    assert read_decisions(tmp_path / "labels") == before
    shutil.rmtree(tmp_path / "data")
    assert read_decisions(tmp_path / "labels") == before


def test_a_reviewer_knows_better_than_a_number(made: Path) -> None:
    out, quality = made / "doubted", Index.load(made / "labels").column("quality")
    limit = float(np.sort(quality)[-2])
    num_kept = 2 + int((quality[3:] >= limit).sum())
    assert (quality[1:3] < limit).any()
    done = stage2(made, out, "--min-quality", str(limit), "--until-epoch", "1")
    assert done.code == 0, done.stderr
    assert f"{num_kept} images, {8 - num_kept} left out" in done.stderr


def test_stage_1_goes_by_them_too(made: Path) -> None:
    out = made / "s1"
    done = call(
        *("stage1", "--data", made / "data", "--labels", made / "labels", "--out", out),
        *("--encoder.name", "mobilenet_v2", "--image-size", "64", "--batch-size", "2"),
        *("--loader-workers", "0", "--epochs", "1", "--heads", "1", "--crops", "0"),
    )
    assert done.code == 0, done.stderr
    (line,) = map(json.loads, (out / "unlabelled.jsonl").read_text().splitlines())
    assert line["reason"] == "rejected"
    assert len(read_decisions(out, Index.load(made / "labels"))) == 3
