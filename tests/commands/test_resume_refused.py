"""Another preset, encoder or network in a folder that was begun: refused, with what differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from label_shards import write_labels
from processes import pack
from repository import REPO
from safetensors.torch import save_file

from a2s.__main__ import run
from a2s.config.parse import parse
from a2s.config.training import Stage2Config
from a2s.errors import CheckpointError, ConfigError
from a2s.models.activation_net import ActivationNet
from a2s.models.encoders import build_encoder
from a2s.storage import checkpoints, run_folder
from a2s.training.setup import start_stage1

SMALL = "--encoder.name mobilenet_v2 --image-size 64 --batch-size 4 --loader-workers 0"


@pytest.fixture(scope="module")
def data(scenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(scenes.train, tmp_path_factory.mktemp("refusals") / "data")


@pytest.fixture(scope="module")
def stage1(data: Path) -> list[str]:
    """The command of a finished run."""
    arguments = ["stage1", "--data", str(data), "--out", str(data.parent / "s1"), *SMALL.split()]
    arguments += ["--epochs", "1", "--cache-dir", str(data.parent / "cache")]
    assert run(arguments) == 0
    return arguments


def refusal(arguments: list[str]) -> str:
    with pytest.raises((ConfigError, CheckpointError)) as caught:
        run(arguments)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_another_encoder(stage1: list[str]) -> None:
    text = refusal([*stage1, "--encoder.name", "resnet50"])
    assert "encoder.name: mobilenet_v2 there, resnet50 now" in text
    assert "use another --out, or the old settings" in text


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_a_preset_where_none_was(stage1: list[str], preset: str) -> None:
    """Flags beat the preset's encoder, so what remains is the rest of the preset."""
    file = REPO / "configs" / f"{preset}.yaml"
    text = refusal([*stage1, "--config", str(file), "--encoder.weights", "none"])
    stride = {"paper": 8, "official": 2}[preset]
    assert f"fusion_stride: 4 there, {stride} now" in text
    assert "cache_dtype: float16 there, float32 now" in text
    assert "encoder" not in text.replace("encoder_mode", "")


def test_every_value_by_which_the_presets_differ(tmp_path: Path) -> None:
    def preset(name: str) -> Stage2Config:
        file = str(REPO / "configs" / f"{name}.yaml")
        config: Stage2Config = parse(
            "stage2", ["--config", file, "--data", "d", "--labels", "l", "--out", str(tmp_path)]
        )
        return config

    with run_folder.claim(tmp_path, command="stage2", config=preset("paper")):
        pass
    with (
        pytest.raises(ConfigError) as caught,
        run_folder.claim(tmp_path, command="stage2", config=preset("official")),
    ):
        pass
    for difference in (
        "binarise: False there, True now",
        "encoder_lr_scale: 1.0 there, 0.1 now",
        "parity.flip: epoch there, once now",
        "milestones: [15, 20] there, [14, 19] now",
    ):
        assert difference in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (["--encoder.name", "resnet50"], "encoder.name: mobilenet_v2 there, resnet50 now"),
        (["--fusion-stride", "8"], "fusion_stride: 4 there, 8 now"),
    ],
)
def test_a_checkpoint_of_another_network(
    stage1: list[str], flags: list[str], difference: str
) -> None:
    """Where the settings of its folder are gone, the weights tell."""
    commit = checkpoints.last_commit(Path(stage1[stage1.index("--out") + 1]))
    config = parse("stage1", [*stage1[1:], *flags])
    with pytest.raises(CheckpointError, match=r"00001/model\.safetensors is of another") as caught:
        start_stage1(config, commit, device=torch.device("cpu"))
    assert difference in str(caught.value)


def test_heads_that_nobody_compared_are_no_source_of_labels(data: Path, tmp_path: Path) -> None:
    network = ActivationNet(build_encoder("mobilenet_v2"), fusion_stride=8, heads=2)
    spec = {**network.spec(), "image_size": "64", "resize_filter": "bilinear"}
    save_file(network.state_dict(), tmp_path / "m.safetensors", metadata=spec)
    arguments = ["label", "--model", str(tmp_path / "m.safetensors"), "--data", str(data)]
    text = refusal([*arguments, "--out", str(tmp_path / "labels"), "--workers", "0"])
    assert "m.safetensors is of an unfinished training" in text
    assert "continue it with the same a2s stage1 command" in text


@pytest.mark.parametrize("entry", ["image_size", "resize_filter", "sign_tie"])
def test_a_model_without_an_entry_is_no_source_of_labels(
    data: Path, tmp_path: Path, entry: str
) -> None:
    network = ActivationNet(build_encoder("mobilenet_v2"), fusion_stride=4)
    metadata = {**network.spec(), "image_size": "64", "resize_filter": "bilinear"}
    del metadata[entry]
    save_file(network.state_dict(), tmp_path / "m.safetensors", metadata=metadata)
    arguments = ["label", "--model", str(tmp_path / "m.safetensors"), "--data", str(data)]
    text = refusal([*arguments, "--out", str(tmp_path / "labels"), "--workers", "0"])
    assert f"does not say with which {entry} it was trained" in text


def test_a_setting_that_the_folder_does_not_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = Stage2Config(data=tmp_path, labels=tmp_path, out=out)
    with run_folder.claim(out, command="stage2", config=config):
        pass
    record = yaml.safe_load((out / "config.yaml").read_text())
    del record["identity"]["lam"]
    (out / "config.yaml").write_text(yaml.safe_dump(record))
    with (
        pytest.raises(ConfigError, match=r"lam: unset there, 0\.4 now"),
        run_folder.claim(out, command="stage2", config=config),
    ):
        pass


@pytest.fixture(scope="module")
def stage2(data: Path) -> list[str]:
    """The command of a finished run of stage 2."""
    labels, out = data.parent / "labels", data.parent / "s2"
    write_labels(data, labels)
    arguments = ["stage2", "--data", str(data), "--labels", str(labels), "--out", str(out)]
    arguments += [*SMALL.split(), "--epochs", "3", "--warm-epochs", "1"]
    assert run(arguments) == 0
    return arguments


@pytest.mark.parametrize("extra", [(), ("--until-epoch", "1"), ("--until-epoch", "2")])
@pytest.mark.parametrize("rectify", ["olr", "hma"])
def test_fewer_epochs_than_there_are(
    stage2: list[str], rectify: str, extra: tuple[str, ...]
) -> None:
    text = refusal([*stage2, "--epochs", "1", "--rectify", rectify, *extra])
    assert "epochs: 3 there, 1 now" in text


@pytest.mark.parametrize("rectify", ["olr", "hma"])
def test_the_folder_of_the_other_stage(stage1: list[str], stage2: list[str], rectify: str) -> None:
    text = refusal([*stage2, "--rectify", rectify, "--out", stage1[stage1.index("--out") + 1]])
    assert "belongs to a2s stage1" in text
    text = refusal([*stage1, "--out", stage2[stage2.index("--out") + 1]])
    assert "belongs to a2s stage2" in text
