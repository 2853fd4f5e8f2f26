"""What a launcher left in the environment, or forgot."""

from __future__ import annotations

import time

import pytest

from a2s.errors import ConfigError
from a2s.parallel import launch


def test_a_launch_that_starts_independent_processes_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        launch.check_launch({"MASTER_ADDR": "127.0.0.1"})
    assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu" in str(caught.value)
    assert "torchrun" in str(caught.value)


WHOLE = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1", "WORLD_SIZE": "4", "RANK": "3"}


@pytest.mark.parametrize(
    "environ", [{"WORLD_SIZE": "2", "RANK": "2"}, {"WORLD_SIZE": "x"}, {"RANK": "1"}]
)
def test_an_impossible_rank_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="WORLD_SIZE"):
        launch.check_launch(environ)


def test_valid_launches_are_accepted() -> None:
    launch.check_launch({})
    launch.check_launch(WHOLE)
    launch.check_launch({**WHOLE, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    assert launch.launched_rank(WHOLE) == 3
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("LOCAL_RANK", value) for value in ("0", "1", "x", "")),
        *((name, "2") for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")),
        ("PMI_SIZE", "x"),
        *(("ACCELERATE_USE_CPU", value) for value in ("x", "")),
        *(("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", value) for value in ("4", "x")),
        *(("ACCELERATE_DYNAMO_BACKEND", value) for value in ("inductor", "x")),
        ("ACCELERATE_TORCH_DEVICE", "cuda:3"),
        ("ACCELERATE_USE_DEEPSPEED", "true"),
        ("ACCELERATE_USE_FSDP", "True"),
        ("ACCELERATE_USE_MEGATRON_LM", "1"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "yes"),
    ],
)
def test_a_variable_that_is_left_over_is_named(name: str, value: str) -> None:
    """Each ended in a traceback of Accelerate, or changed what it does without a word."""
    with pytest.raises(ConfigError) as caught:
        launch.check_launch({name: value})
    message = str(caught.value)
    assert message.startswith("launch: ")
    assert name in message
    assert "unset" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "changed",
    [
        {"LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"},
        {"LOCAL_WORLD_SIZE": "0"},
        {"LOCAL_WORLD_SIZE": "x"},
    ],
)
def test_a_place_on_a_machine_that_cannot_be_is_refused(changed: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="does not fit LOCAL_WORLD_SIZE"):
        launch.check_launch({**WHOLE, **changed})


def test_what_accelerate_launch_sets_is_accepted() -> None:
    variables = {"ACCELERATE_USE_CPU": "True", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    variables |= {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}
    launch.check_launch(variables)


def test_the_size_of_slurms_step_beside_torchrun_is_hidden_from_accelerate() -> None:
    environ = {**WHOLE, "PMI_SIZE": "2", "OMPI_COMM_WORLD_SIZE": "2"}
    launch.check_launch(environ)
    launch.hide_mpi(environ)
    assert environ == WHOLE


def test_a_rank_whose_peers_do_not_come_says_what_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "SAY_SEC", 0.05)
    for environ in ({}, WHOLE):
        with launch.joining(environ):
            time.sleep(0.5)
    said = capsys.readouterr().err
    assert said == "a2s: launch: waiting at localhost:1 for the other ranks (WORLD_SIZE=4)\n"


def test_ranks_that_cannot_meet_are_one_line() -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot meet at localhost:1, .* \(address in use\);"),
        launch.joining(WHOLE),
    ):
        raise RuntimeError("address in use\nand a trace in C++")
    with pytest.raises(RuntimeError, match="a bug"), launch.joining({}):
        raise RuntimeError("a bug")


def test_a_number_of_threads_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match="OMP_NUM_THREADS=x is no number"):
        launch.check_launch({**WHOLE, "OMP_NUM_THREADS": "x"})
