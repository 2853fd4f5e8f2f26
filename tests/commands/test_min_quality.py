"""Labels below `--min-quality`: left out of label sets and of training, counted and listed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from processes import call, pack
from status_folders import ask

from a2s.commands import label
from a2s.config.commands import LabelConfig
from a2s.data.index import Index
from a2s.storage.status import quality


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("quality") / "data")


@pytest.fixture(scope="module")
def all_labels(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("all") / "labels"
    assert label.run(config(data, out)) == 0
    return out


def config(data: Path, out: Path, **others: float) -> LabelConfig:
    return LabelConfig(model="rbd", data=data, out=out, workers=0, **others)


def between(labels: Path) -> tuple[float, list[str]]:
    """A limit that parts the labels into two, and the keys of those below."""
    index = Index.load(labels)
    numbers = index.column("quality")
    limit = float(np.sort(numbers)[3] + np.sort(numbers)[4]) / 2
    assert 0 < (numbers < limit).sum() < len(numbers)
    return limit, [index.key(row) for row in np.flatnonzero(numbers < limit)]


def test_label_leaves_out_and_lists_labels_below_the_limit(
    data: Path,
    all_labels: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit, below = between(all_labels)
    out = tmp_path / "labels"
    assert label.run(config(data, out, min_quality=limit)) == 0
    printed = capsys.readouterr().out
    assert f"{len(below)} labels below --min-quality" in printed
    assert "label: quality: expected F" in printed
    index = Index.load(out)
    assert set(index.keys.to_pylist()) == set(Index.load(data).keys.to_pylist()) - set(below)
    assert (index.column("quality") >= limit).all()
    lines = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == below
    assert all(line["quality"] < limit for line in lines)
    found = ask(out, capsys)
    assert (found["num_left_out"], found["state"]) == (len(below), "finished")


def test_status_and_manifests_hold_the_distribution(
    all_labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = Index.load(all_labels)
    found = ask(all_labels, capsys)
    assert found["quality_counts"] == quality.count(index.column("quality").tolist())
    assert found["num_no_object"] == int(index.column("no_object").sum())
    assert found["num_left_out"] == 0


def test_stage_2_leaves_them_out(data: Path, all_labels: Path, tmp_path: Path) -> None:
    limit, below = between(all_labels)
    out = tmp_path / "s2"
    done = call(
        *("stage2", "--data", str(data), "--labels", str(all_labels), "--out", str(out)),
        *("--encoder.name", "mobilenet_v2", "--image-size", "32", "--batch-size", "2"),
        *("--loader-workers", "0", "--epochs", "1", "--min-quality", str(limit)),
    )
    assert done.code == 0, done.stderr
    assert f"{len(Index.load(data)) - len(below)} images, {len(below)} left out" in done.stderr
    lines = [json.loads(line) for line in (out / "unlabelled.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == set(below)
    assert {line["reason"] for line in lines} == {"low_quality"}


def test_labels_without_the_number_are_refused(
    data: Path, all_labels: Path, tmp_path: Path
) -> None:
    # Labels that stage 2 has rectified have no quality.
    first = tmp_path / "s2"
    arguments = [
        *("stage2", "--data", str(data), "--image-size", "32", "--batch-size", "2"),
        *("--encoder.name", "mobilenet_v2", "--loader-workers", "0", "--epochs", "1"),
    ]
    assert call(*arguments, "--labels", str(all_labels), "--out", str(first)).code == 0
    again = [*arguments, "--labels", str(first / "rectified"), "--out", str(tmp_path / "again")]
    done = call(*again, "--min-quality", "0.5")
    assert done.code == 2
    assert "no column quality" in done.stderr
