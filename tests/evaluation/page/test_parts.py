"""Which folders the page takes for parts of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from a2s.errors import ConfigError
from a2s.evaluation.page.parts import find_parts


def record(folder: Path, command: str, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {command: settings, "identity": {"command": command}}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_paths_count_from_where_the_command_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    model = record(work / "runs" / "s1", "stage1", data="data", out="runs/s1")
    labels = record(work / "labels", "label", data="data", model="runs/s1", out="labels")
    run = record(work / "runs" / "s2", "stage2", data="data", labels="labels", out="runs/s2")
    monkeypatch.chdir(tmp_path / "elsewhere")
    parts = find_parts(run)
    assert (parts.data, parts.labels, parts.label_model) == (work / "data", labels, model)
    assert parts.stage2 == run
    assert not parts.gone


def test_inputs_that_are_gone_are_named(tmp_path: Path) -> None:
    labels = record(tmp_path / "x", "label", data="no/data", model="rbd", out="x")
    parts = find_parts(labels)
    assert parts.data is None
    assert parts.gone == ("no/data",)
    assert parts.label_model == Path("rbd")


def test_a_whole_run_has_its_folders(tmp_path: Path) -> None:
    run = record(tmp_path / "r", "run", test="t", truth=None, out="r")
    for name in ("data", "test-data", "labels", "stage1", "stage2", "preds"):
        (run / name).mkdir()
    parts = find_parts(run)
    assert parts.has_test_set
    assert parts.test_data == run / "test-data"
    assert parts.label_model == run / "stage1"
    assert parts.test_labels is None, "labels of the test images are made with --truth only"
    assert parts.rectified is None


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"it holds no config\.yaml of a2s; give the --out of"):
        find_parts(tmp_path)
    with pytest.raises(ConfigError, match="it is of a2s shard"):
        find_parts(record(tmp_path / "d", "shard"))
    damaged = record(tmp_path / "r", "run")
    (damaged / "config.yaml").write_text("run: 3\nidentity: {command: run}\n")
    with pytest.raises(ConfigError, match="damaged"):
        find_parts(damaged)
