"""Rates per epoch: as the paper writes, as the authors' code does, and moved with the epochs."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim.lr_scheduler import MultiStepLR

from a2s.config.base import Settings
from a2s.config.parse import parse
from a2s.config.run import RunConfig
from a2s.config.schedules import STAGE1, STAGE2, Schedule, scaled_milestones
from a2s.config.training import Stage1Config, Stage2Config
from a2s.errors import ConfigError
from a2s.pipeline import job_list
from a2s.storage import run_folder
from a2s.training.learning_rate import learning_rate

STAGE1_PATHS = ["--data", "d", "--out", "o"]


def rates(schedule: Schedule, *, lr: float, epochs: int | None = None) -> list[float]:
    milestones = scaled_milestones(schedule, epochs=epochs or schedule.epochs)
    return [
        learning_rate(epoch, lr=lr, milestones=milestones)
        for epoch in range(1, (epochs or schedule.epochs) + 1)
    ]


def multi_step(lr: float, milestones: list[int], *, epochs: int, before: bool) -> list[float]:
    """What torch's scheduler gives when it is stepped before, or after, each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler = MultiStepLR(optimizer, milestones)
    found = []
    for _ in range(epochs):
        with warnings.catch_warnings():
            # The order against which it warns is the one under test.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            if before:
                scheduler.step()
            found.append(optimizer.param_groups[0]["lr"])
            if not before:
                scheduler.step()
    return found


def test_paper_rates_fall_after_the_named_epochs() -> None:
    stage1, stage2 = rates(STAGE1["paper"], lr=1), rates(STAGE2["paper"], lr=0.005)
    assert stage1 == pytest.approx([1.0] * 10 + [0.1] * 6 + [0.01] * 4)
    assert stage2 == pytest.approx([0.005] * 15 + [0.0005] * 5 + [0.00005] * 5)
    assert stage1 == pytest.approx(multi_step(1, [10, 16], epochs=20, before=False))
    assert stage2 == pytest.approx(multi_step(0.005, [15, 20], epochs=25, before=False))


def test_official_rates_are_those_of_a_scheduler_stepped_before_the_epoch() -> None:
    stage1, stage2 = rates(STAGE1["official"], lr=1), rates(STAGE2["official"], lr=0.005)
    assert stage1 == pytest.approx([1.0] * 11 + [0.1] * 4 + [0.01] * 5)
    assert stage2 == pytest.approx([0.005] * 14 + [0.0005] * 5 + [0.00005] * 6)
    assert stage1 == pytest.approx(multi_step(1, [12, 16], epochs=20, before=True))
    assert stage2 == pytest.approx(multi_step(0.005, [15, 20], epochs=25, before=True))


@pytest.mark.parametrize(
    ("schedule", "epochs", "milestones"),
    [
        (STAGE1["paper"], 10, (5, 8)),
        (STAGE1["paper"], 40, (20, 32)),
        (STAGE1["official"], 10, (6, 8)),
        (STAGE2["paper"], 5, (3, 4)),
        (STAGE2["paper"], 6, (4, 5)),
        (STAGE2["official"], 50, (28, 38)),
        (STAGE1["paper"], 1, (1, 1)),
    ],
)
def test_milestones_move_with_the_number_of_epochs(
    schedule: Schedule, epochs: int, milestones: tuple[int, ...]
) -> None:
    assert scaled_milestones(schedule, epochs=epochs) == milestones
    found = rates(schedule, lr=1, epochs=epochs)
    assert found == sorted(found, reverse=True)
    assert found[0] == 1


@pytest.mark.parametrize(
    ("flags", "milestones"),
    [
        ("", (10, 16)),
        ("--epochs 10", (5, 8)),
        ("--parity.schedule official", (11, 15)),
        ("--parity.schedule official --epochs 10", (6, 8)),
        ("--epochs 10 --milestones 3 4", (3, 4)),
        ("--milestones 3", (3,)),
    ],
)
def test_given_milestones_are_used_as_they_are(flags: str, milestones: tuple[int, ...]) -> None:
    assert parse("stage1", [*STAGE1_PATHS, *flags.split()]).milestones == milestones


def test_milestones_in_the_sections_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("stage1: {epochs: 10}\nstage2: {parity: {schedule: official}, milestones: [7]}")
    config: RunConfig = parse(
        "run", ["images", "--out", "o", "--config", str(file), "--stage2.epochs", "50"]
    )
    assert (config.stage1.milestones, config.stage2.milestones) == ((5, 8), (7,))


def test_a_wrong_schedule_or_number_of_epochs_is_the_only_complaint() -> None:
    for flags, message in (
        ("--epochs 0", "config: stage1.epochs: Input should be greater than or equal to 1"),
        ("--parity.schedule mine", "stage1: invalid choice 'mine'"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse("stage1", [*STAGE1_PATHS, *flags.split()])


def test_a_run_keeps_its_milestones_when_it_is_resumed(tmp_path: Path) -> None:
    """What counts is the resolved tuple, not which words it came from."""
    out = tmp_path / "s1"

    def claim(**settings: object) -> None:
        config: Settings = Stage1Config(data=tmp_path, out=out, **settings)  # type: ignore[arg-type]
        with run_folder.claim(out, command="stage1", config=config):
            pass

    claim(epochs=10)
    record = yaml.safe_load((out / "config.yaml").read_text())
    assert record["stage1"]["milestones"] == record["identity"]["milestones"] == [5, 8]
    claim(epochs=10, milestones=(5, 8))
    claim(epochs=10, parity={"schedule": "official"}, milestones=(5, 8))
    with pytest.raises(ConfigError, match=r"milestones: \[5, 8\] there, \[6, 8\] now"):
        claim(epochs=10, parity={"schedule": "official"})


def test_windows_are_for_detectors_that_begin_at_the_full_rate(tmp_path: Path) -> None:
    paths = {name: tmp_path for name in ("data", "labels", "out")}
    assert Stage2Config(**paths).crops == 0.5
    assert Stage2Config(**paths, init="bundled").crops == 0
    assert Stage2Config(**paths, init="bundled", crops=0.3).crops == 0.3
    run = RunConfig(images=("photos",), out=tmp_path)
    for init, crops in (("none", 0.5), ("bundled", 0)):
        jobs = job_list(run.model_copy(update={"init": init}))
        (stage2,) = [job.parsed() for job in jobs if job.command == "stage2"]
        assert stage2.crops == crops
