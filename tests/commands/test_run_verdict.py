"""How `a2s run` ends: rows of baselines, a verdict, and warnings. Networks are too small to learn.

The tests that plant masks of a detector follow each other in one finished run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import small

from a2s.commands import evaluate, predict
from a2s.commands import run as run_job
from a2s.config.commands import EvaluateConfig
from a2s.config.run import RunConfig
from a2s.data.arrays import U8
from a2s.data.images import decode_mask, encode_png
from a2s.data.results import read_file
from a2s.storage.written import WrittenFiles


def ending(printed: str) -> list[str]:
    """The verdict and the lines below it."""
    lines = printed.splitlines()
    (number,) = [n for n, line in enumerate(lines) if line.startswith("verdict: ")]
    return lines[number:]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, scenes: Any) -> RunConfig:
    """A run that was killed before its last step, and then finished."""
    config = small(scenes, tmp_path_factory.mktemp("run") / "out")
    score = evaluate.run

    def killed(settings: EvaluateConfig) -> int:
        if settings.out.name == "rbd":
            raise KeyboardInterrupt
        return score(settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            run_job.run(config)
    made = sorted((config.out / "test-rbd").glob("*.png"))
    made += [config.out / "scores" / name / "scores.json" for name in ("maps", "detector")]
    before = {file: file.stat().st_mtime_ns for file in made}
    assert len(before) == 4 + 2
    assert not (config.out / "table.md").exists()
    with pytest.MonkeyPatch.context() as patch:
        # Nothing is left to predict.
        patch.setattr(predict, "predict_chunk", None)
        assert run_job.run(config) == 0
    assert {file: file.stat().st_mtime_ns for file in made} == before
    return config


def test_every_row_is_in_the_table_and_scored_on_the_same_images(finished: RunConfig) -> None:
    table = (finished.out / "table.md").read_text()
    scores = finished.out / "scores"
    of_rbd = json.loads((scores / "rbd" / "scores.json").read_text())
    of_detector = json.loads((scores / "detector" / "scores.json").read_text())
    assert f"| RBD, without training | {of_rbd['adaptive_f']:.3f} |" in table
    centre = f"{of_detector['centre_adaptive_f']:.3f}"
    assert f"| centre: one Gaussian in the middle of every image | {centre} |" in table
    assert of_rbd["num_images"] == of_detector["num_images"] == 4
    assert of_rbd["centre_adaptive_f"] == of_detector["centre_adaptive_f"]


def plant(preds: Path, name: str, mask_HW: U8) -> None:
    """Put a mask in the place of one of the detector, as if it had made it."""
    (preds / name).write_bytes(encode_png(mask_HW))
    WrittenFiles(preds).finish([read_file(preds, name)])


def test_a_planted_bad_detector_is_warned_of(
    finished: RunConfig, scenes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in scenes.masks.iterdir():
        plant(finished.out / "preds", file.name, 255 - decode_mask(file.read_bytes()))
    assert run_job.run(finished) == 0
    judged = ending(capsys.readouterr().out)
    assert judged[0].startswith("verdict: best by adaptive F on 4 images: ")
    assert not judged[0].startswith("verdict: best by adaptive F on 4 images: detector")
    warned = [line for line in judged if "is not better than" in line]
    # RBD finds drawn objects; the labels of an untrained network may be even worse than the mask.
    assert any("RBD" in line for line in warned)
    assert any("one Gaussian in the middle" in line for line in warned)
    assert (finished.out / "table.md").read_text().endswith("\n- ".join(["", *judged]) + "\n")


def test_a_planted_perfect_detector_is_best_and_not_warned_of(
    finished: RunConfig, scenes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in scenes.masks.iterdir():
        plant(finished.out / "preds", file.name, decode_mask(file.read_bytes()))
    assert run_job.run(finished) == 0
    first, *warned = ending(capsys.readouterr().out)
    assert first.startswith("verdict: best by adaptive F on 4 images: detector 1.000, before ")
    assert first.endswith("by MAE: detector 0.000")
    # Labels of an untrained network show no object.
    few, empty = warned
    assert few.startswith("warning: 8 images to learn from are few")
    assert "show no salient object" in empty
    # Eight images in batches of four, two epochs.
    assert "4 in stage 1 and 4 in stage 2" in few


def test_without_truth_the_verdict_says_what_agrees(
    tmp_path: Path, scenes: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    config = small(scenes, tmp_path / "out", test=None, truth=None)
    assert run_job.run(config) == 0
    first, *warned = ending(capfd.readouterr().out)
    assert first.startswith("verdict: best by the expected F (quality): ")
    assert "; without --truth nobody can rank the detector; " in first
    assert "on 8 of 8 sampled images" in first
    assert len(warned) == 2
    assert not (config.out / "table.md").exists()
    assert not (config.out / "test-rbd").exists()
    # Masks that equal the labels agree with them fully.
    from a2s.data.index import Index

    labels = Index.load(config.out / "labels")
    for row in range(len(labels)):
        mask_HW = decode_mask(labels.read(row))
        mask_HW = np.where(mask_HW > 127, 200, 90).astype(np.uint8)
        plant(config.out / "preds", f"{labels.key(row)}.png", mask_HW)
    assert run_job.run(config) == 0
    assert "detector and labels 1.00" in ending(capfd.readouterr().out)[0]
