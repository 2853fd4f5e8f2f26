"""Launch checks and single-process collectives; tests with several ranks are in `tests/ranks`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import environment

from a2s.errors import ConfigError
from a2s.parallel import rank_main, ranks


def test_stages_of_one_process_may_differ_in_precision() -> None:
    code = (
        "from a2s.parallel import ranks\n"
        "for precision in ('fp32', 'bf16', 'fp32'):\n"
        "    print(ranks.start(precision=precision).mixed_precision)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["no", "bf16", "no"]


def test_a_bad_launch_is_one_message_on_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "a2s", "stage1", "--data", "none", "--out", "none"],
        env=environment(MASTER_ADDR="127.0.0.1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "accelerate launch --multi_gpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb"])
    with pytest.raises(ConfigError, match=r"tensorboard is not installed; `pip install 'a2s\[ten"):
        ranks.start(trackers=("tensorboard",))


def test_single_process_sum_is_the_value_in_float64() -> None:
    value = torch.tensor([1.5, 2.5], requires_grad=True)
    total = ranks.all_sum(value)
    assert total.dtype == torch.float64
    assert total.tolist() == [1.5, 2.5]
    assert not total.requires_grad
    assert ranks.all_sum(torch.tensor(3)).dtype == torch.int64
    assert ranks.all_gather(torch.tensor([4])).tolist() == [[4]]
    assert (ranks.rank(), ranks.world(), ranks.is_main()) == (0, 1, True)
    ranks.check_same("data", "abc")


def test_single_process_failure_is_raised_unchanged() -> None:
    with pytest.raises(ConfigError, match="mine"), ranks.fail_together():
        raise ConfigError("mine")
    with pytest.raises(ZeroDivisionError), ranks.fail_together():
        raise ZeroDivisionError


def test_bugs_are_reported_to_the_launcher_and_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))

    def bug() -> None:
        raise ValueError("a bug on this rank")

    def mistake() -> None:
        raise ConfigError("a mistake")

    with pytest.raises(ConfigError):
        rank_main.report_to_launcher(mistake)()
    assert not file.exists()
    with pytest.raises(ValueError, match="a bug"):
        rank_main.report_to_launcher(bug)()
    assert "a bug on this rank" in file.read_text()
