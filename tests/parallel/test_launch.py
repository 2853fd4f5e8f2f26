"""What a launcher left in the environment, or forgot."""

from __future__ import annotations

import pytest

from a2s.errors import ConfigError
from a2s.parallel import launch


def test_a_launch_that_starts_independent_processes_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        launch.check_launch({"MASTER_ADDR": "127.0.0.1"})
    assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu" in str(caught.value)
    assert "torchrun" in str(caught.value)


@pytest.mark.parametrize(
    "environ", [{"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "x"}, {"RANK": "1"}]
)
def test_an_impossible_rank_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        launch.check_launch(environ)


def test_valid_launches_are_accepted() -> None:
    launch.check_launch({})
    torchrun = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "4", "RANK": "3"}
    launch.check_launch(torchrun)
    assert launch.launched_rank(torchrun) == 3
    assert launch.launched_rank({}) == 0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": ""}, "MASTER_PORT is not set"),
        ({"MASTER_PORT": "99999"}, "MASTER_PORT=99999 is no port"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT=http is no port"),
        ({"MASTER_ADDR": "no-such-host.invalid"}, "no-such-host.invalid does not resolve"),
        ({"MASTER_ADDR": "a" * 70 + ".invalid"}, "does not resolve"),
    ],
)
def test_ranks_that_could_never_meet_are_refused(changed: dict[str, str], said: str) -> None:
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    environ = {**address, "WORLD_SIZE": "2", "RANK": "0", **changed}
    with pytest.raises(ConfigError, match="launch: WORLD_SIZE is 2") as caught:
        launch.check_launch({name: value for name, value in environ.items() if value})
    assert said in str(caught.value)
