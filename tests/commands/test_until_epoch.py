"""A run in three calls is the run in one call, bit for bit, in both stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from label_shards import write_labels
from processes import call, pack, run_ranks

from a2s.commands import run, status
from a2s.config.checks import StatusConfig
from a2s.config.run import RunConfig
from a2s.config.training import Stage1Options
from a2s.errors import ConfigError
from a2s.storage import checkpoints

EPOCHS = 4
STAGES = ("stage1", "stage2")


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = pack(scenes.train, tmp_path_factory.mktemp("until") / "data")
    write_labels(data, data.parent / "labels")
    return data


def arguments(stage: str, data: Path, out: Path, until: int | None = None) -> list[str]:
    flags = f"--encoder.name mobilenet_v2 --image-size 32 --batch-size 4 --epochs {EPOCHS}"
    # The rate falls after the second and the third epoch, wherever a call ends.
    flags += " --milestones 2 3 --loader-workers 0 --log-every 1"
    if stage == "stage2":
        flags += f" --labels {data.parent / 'labels'} --warm-epochs 1"
    else:
        flags += f" --lr 0.1 --cache-dir {out.parent / 'cache'}"
    flags += "" if until is None else f" --until-epoch {until}"
    return [stage, "--data", str(data), "--out", str(out), *flags.split()]


def result(out: Path) -> dict[str, object]:
    commit = checkpoints.last_commit(out)
    assert commit is not None
    assert commit.state["finished"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "event" not in line]
    return {
        "sha256": commit.sha256,
        "state": commit.state,
        "number": commit.number,
        "rates": [(line["epoch"], line["step"], line["lr"], line["loss"]) for line in steps],
        "rectified": {path.name: path.read_bytes() for path in out.glob("rectified/*")},
    }


@pytest.mark.parametrize("stage", STAGES)
def test_in_parts_is_at_once(stage: str, data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call(*arguments(stage, data, whole)).code == 0
    for until in (1, 2):
        done = call(*arguments(stage, data, parts, until))
        assert done.code == 0, done.stderr
        said, last = done.stdout.splitlines()
        assert said == (
            f"{stage}: {parts} stops after epoch {until} of {EPOCHS}; the same command with a "
            "larger --until-epoch, or without it, goes on"
        )
        assert last.startswith(f"{stage}: the encoder is UNTRAINED")
        commit = checkpoints.last_commit(parts)
        assert commit is not None
        assert (commit.state["epoch"], commit.state["finished"]) == (until, False)
        assert not list(parts.glob("rectified/*"))
    done = call(*arguments(stage, data, parts))
    assert done.code == 0, done.stderr
    assert f"{stage}: wrote" in done.stdout
    assert result(parts) == result(whole)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_there_already_is_not_trained(stage: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(*arguments(stage, data, out, 2)).code == 0
    before = checkpoints.last_commit(out)
    for until in (1, 2):
        done = call(*arguments(stage, data, out, until))
        assert done.code == 0
        assert "stops after epoch 2 of 4" in done.stdout
    assert checkpoints.last_commit(out) == before
    # More than there are epochs is all of them; a finished run is finished for any number.
    assert "wrote" in call(*arguments(stage, data, out, 99)).stdout
    assert "is done" in call(*arguments(stage, data, out, 1)).stdout


@pytest.mark.slow
def test_two_ranks_stop_together(data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, until in ((whole, None), (parts, 2), (parts, 2), (parts, None)):
        done = run_ranks(arguments("stage2", data, out, until), world=2)
        assert [rank.code for rank in done] == [0, 0], [rank.stderr for rank in done]
        said = "stops after" if until else "wrote"
        assert [rank.stdout.count(said) for rank in done] == [1, 0]
    assert result(parts) == result(whole)


def test_status_knows_a_pause(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert call(*arguments("stage1", data, out, 2)).code == 0
    assert status.run(StatusConfig(out=str(out))) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("a2s stage1, paused")
    assert "epoch     3 of 4, step 0 of 2 (50.0%)" in said[1]
    assert said[-1] == (
        "  paused    the same command with a larger --until-epoch, or without it, goes on"
    )
    assert not [line for line in said if "problem" in line or " left " in line]


def test_the_whole_job_does_not_stop_in_the_middle(tmp_path: Path) -> None:
    config = RunConfig(images=("x",), out=tmp_path, stage1=Stage1Options(until_epoch=1))
    with pytest.raises(ConfigError, match=r"stage1\.until_epoch works with a2s stage1 alone"):
        run.run(config)
