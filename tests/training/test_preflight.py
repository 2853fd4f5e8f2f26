"""What is said and checked before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from a2s.commands import ablate
from a2s.config.base import EncoderConfig
from a2s.config.parse import parse
from a2s.config.training import Stage1Config
from a2s.errors import WeightsError
from a2s.storage import checkpoints
from a2s.training.preflight import UNTRAINED, check_encoders, untrained_lines


def config(out: Path, **encoder: str) -> Stage1Config:
    named = EncoderConfig(**{"name": "mobilenet_v2", **encoder})
    return Stage1Config(data=out, out=out, encoder=named)


def test_an_untrained_encoder_is_named(tmp_path: Path) -> None:
    assert not [*untrained_lines(config(tmp_path, weights="mobilenet_v2/imagenet"))]
    (said,) = untrained_lines(config(tmp_path))
    assert said.startswith(f"{UNTRAINED}; give --encoder.weights")


def test_only_unfinished_runs_need_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = config(tmp_path, weights="/nowhere.pth")
    with pytest.raises(WeightsError, match=r"stage1\.encoder: .*/nowhere.pth is neither"):
        check_encoders([wrong])
    state = {"finished": True}
    commit = checkpoints.Commit(1, tmp_path, tmp_path, {}, state)
    monkeypatch.setattr(checkpoints, "last_commit", lambda run: commit)
    check_encoders([wrong])
    state["finished"] = False
    with pytest.raises(WeightsError):
        check_encoders([wrong])


def test_ablate_says_it_first_and_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scenes
) -> None:
    monkeypatch.setattr(ablate, "run_jobs", lambda jobs, **options: 0)
    entry = replace(ablate.find("tab5"), finish=lambda material, rows: "table")
    monkeypatch.setattr(ablate, "find", lambda name: entry)
    flags = ["--data", str(scenes.images), "--truth", f"train={scenes.masks}", "--quick"]
    assert ablate.run(parse("ablate", ["tab5", *flags, "--out", str(tmp_path / "out")])) == 0
    printed = capsys.readouterr()
    assert "UNTRAINED" in printed.err.splitlines()[0]
    assert "UNTRAINED" in printed.out.splitlines()[-1]
    bad = ["--stage1.encoder.weights", "/nowhere.pth", "--out", str(tmp_path / "bad")]
    with pytest.raises(WeightsError, match=r"stage1\.encoder"):
        ablate.run(parse("ablate", ["tab5", *flags, *bad]))
    assert not (tmp_path / "bad").exists()
