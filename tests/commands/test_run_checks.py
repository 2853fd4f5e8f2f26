"""`a2s run` finds what a later step lacks before the first one, and takes the corrected command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from small_run import SMALL, small

from a2s.commands import run as run_job
from a2s.config.base import EncoderConfig, RefineConfig
from a2s.config.commands import LabelOptions
from a2s.config.run import RunConfig
from a2s.config.training import Stage1Options, Stage1Parity, Stage2Options
from a2s.errors import ConfigError, DataError, WeightsError
from a2s.pipeline import Job


def stage2(**encoder: str) -> Stage2Options:
    named = EncoderConfig(**{"name": "mobilenet_v2", **encoder})
    return Stage2Options(**{**SMALL, "encoder": named}, warm_epochs=1)


def refusal(config: RunConfig, kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        run_job.run(config)
    # Nothing ran, so nothing is in the way of the corrected command.
    assert not config.out.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("encoder", "kind", "why"),
    [
        ({"weights": "/nowhere/x.pth"}, WeightsError, "/nowhere/x.pth is neither a file"),
        ({"weights": "resnet50/imagenet"}, WeightsError, "weights of resnet50, not of mobile"),
        ({"name": "timm:no_such_network"}, ConfigError, "no_such_network"),
    ],
)
def test_the_encoder_of_the_last_training_is_checked_first(
    encoder: dict[str, str], kind: type[Exception], why: str, tmp_path: Path, scenes: Any
) -> None:
    text = refusal(small(scenes, tmp_path / "run", stage2=stage2(**encoder)), kind)
    assert text.startswith("stage2.encoder: ")
    assert why in text


def test_settings_that_a_later_step_refuses_are_found_first(tmp_path: Path, scenes: Any) -> None:
    stage1 = Stage1Options(**SMALL, parity=Stage1Parity(boundary="db1"))
    text = refusal(small(scenes, tmp_path / "run", stage1=stage1), ConfigError)
    assert "parity.boundary" in text


def test_a_backend_that_is_not_installed(
    tmp_path: Path, scenes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "a2s.labels.crf.pydensecrf_backend", None)
    label = LabelOptions(refine=RefineConfig(backend="pydensecrf"))
    text = refusal(small(scenes, tmp_path / "run", label=label), ConfigError)
    assert "pip install 'a2s[pydensecrf]'" in text


def test_a_tracker_that_is_not_installed(
    tmp_path: Path, scenes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    options = Stage2Options(**SMALL, warm_epochs=1, tracker="mlflow")
    text = refusal(small(scenes, tmp_path / "run", stage2=options), ConfigError)
    assert text.startswith("tracker: mlflow is not installed")


def test_a_pattern_without_truths(tmp_path: Path, scenes: Any) -> None:
    config = small(scenes, tmp_path / "run", truth=None, mask_pattern="{stem}_mask.png")
    assert "--mask-pattern needs --truth" in refusal(config, ConfigError)


def test_truths_are_looked_at_first(tmp_path: Path, scenes: Any) -> None:
    def masks(name: str, value: int) -> Path:
        folder = tmp_path / f"masks{value}{name[:1]}"
        folder.mkdir()
        for path in sorted(scenes.masks.iterdir()):
            file = folder / f"{path.stem}{name}.png"
            Image.fromarray(np.full((96, 96), value, np.uint8)).save(file)
        return folder

    for truth, why in (
        (tmp_path / "none", "no such folder"),
        (masks("", 0), "not one of the masks has a salient pixel"),
        (masks("-gt", 255), r"--mask-pattern '{stem}-gt.png' would pair"),
    ):
        assert why in refusal(small(scenes, tmp_path / "run", truth=truth), DataError)
    out = tmp_path / "run"
    missing = small(scenes, out, test=tmp_path / "nowhere")
    assert "nowhere: no such file" in refusal(missing, ConfigError)


def test_what_did_not_run_yet_may_change(
    tmp_path: Path, scenes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runner stops where it is told; the steps before are real."""
    config = small(scenes, tmp_path / "run", test=None, truth=None)
    real = run_job.run_jobs

    def until_stage1(jobs: list[Job], **options: Any) -> int:
        return real([job for job in jobs if job.out.name in ("data", "seeds")], **options) or 3

    with monkeypatch.context() as patch:
        patch.setattr(run_job, "run_jobs", until_stage1)
        assert run_job.run(config) == 3
        changed = config.model_copy(update={"stage2": stage2().model_copy(update={"lr": 0.01})})
        assert run_job.run(changed) == 3
        recorded = yaml.safe_load((config.out / "config.yaml").read_text())
        assert recorded["run"]["stage2"]["lr"] == 0.01
        other = {"shard": config.shard.model_copy(update={"shard_size": 2})}
        with pytest.raises(ConfigError, match="shard_size: 5 there, 2 now"):
            run_job.run(config.model_copy(update=other))
