"""Flag beats file beats default; every complaint names the key."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

import pytest
from pydantic import BaseModel
from repository import REPO
from tyro.conf import Positional

from a2s.config.parse import parse
from a2s.config.registry import COMMANDS
from a2s.config.training import Stage2Config
from a2s.errors import ConfigError
from a2s.storage.objects.urls import url_of

PATHS = ["--data", "d", "--labels", "l", "--out", "o"]


def _yaml(folder: Path, text: str) -> str:
    file = folder / "c.yaml"
    file.write_text(text)
    return str(file)


def test_flag_beats_file_beats_default(tmp_path: Path) -> None:
    file = _yaml(tmp_path, "stage2: {lr: 0.01, milestones: [4, 5], encoder: {name: mobilenet_v2}}")
    config = parse("stage2", ["--config", file, "--lr", "3", *PATHS])
    assert (config.lr, config.milestones, config.epochs) == (3.0, (4, 5), 25)
    assert config.encoder.name == "mobilenet_v2"
    assert config.encoder.weights == "none"


def test_paper_defaults() -> None:
    stage1 = parse("stage1", ["--data", "d", "--out", "o"])
    assert (stage1.epochs, stage1.lr, stage1.milestones) == (20, 1.0, (10, 16))
    assert (stage1.batch_size, stage1.image_size, stage1.alpha) == (8, 320, 0.1)
    stage2 = parse("stage2", PATHS)
    assert (stage2.epochs, stage2.lr, stage2.milestones) == (25, 0.005, (15, 20))
    assert (stage2.lam, stage2.warm_epochs) == (0.4, 2)


def test_sections_of_single_commands_hold_for_the_whole_run(tmp_path: Path) -> None:
    file = _yaml(tmp_path, "stage1: {epochs: 3}\nstage2: {lr: 0.2}\nrun: {seed: 4}")
    config = parse("run", ["images", "--out", "o", f"--config={file}", "--stage2.epochs", "7"])
    assert (config.stage1.epochs, config.stage2.lr, config.stage2.epochs) == (3, 0.2, 7)
    assert config.seed == 4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("stage2: {learning_rate: 1}", ["stage2.learning_rate is not a setting", "c.yaml"]),
        ("stage2: {epoch: 1}", ["did you mean stage2.epochs?"]),
        ("stage2: {flip: once}", ["did you mean stage2.parity.flip?"]),
        ("stage2: {parity: {flp: once}}", ["did you mean stage2.parity.flip?"]),
        (
            "stage2: {encoder: {nam: x}}",
            ["stage2.encoder.nam", "did you mean stage2.encoder.name?"],
        ),
        ("stage_2: {lr: 1}", ["stage_2 is not a command", "did you mean stage2?"]),
        ("stage2: {lr: fast}", ["stage2.lr", "number"]),
        ("stage2: {image_size: 100}", ["stage2.image_size", "multiple of 32"]),
        ("stage2: 3", ["section stage2"]),
        ("stage2: {encoder: {name: vgg}}", ["stage2.encoder.name: vgg is unknown"]),
        ("stage2: [", ["cannot be read as YAML"]),
        ("label: {refine: {median: 4}}\nstage2: {lam: 2}", ["stage2.lam"]),
    ],
)
def test_wrong_file_names_key_and_file(tmp_path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse("stage2", ["--config", _yaml(tmp_path, text), *PATHS])
    for part in parts:
        assert part in str(caught.value)


def test_missing_config_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        parse("stage2", ["--config", "nowhere.yaml", *PATHS])
    with pytest.raises(ConfigError, match="--config needs a file"):
        parse("stage2", [*PATHS, "--config"])


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (
            "stage2",
            ["--image-size", "100"],
            "config: stage2.image_size: Input should be a multiple of 32",
        ),
        (
            "label",
            ["--refine.median", "4"],
            "config: label.refine: median must be odd, not 4",
        ),
        (
            "run",
            ["--stage2.epochs", "0", "images"],
            "config: run.stage2.epochs: Input should be greater than or equal to 1",
        ),
        (
            "stage2",
            ["--encoder.name", "vgg"],
            "config: stage2.encoder.name: vgg is unknown; known are resnet50, mobilenet_v2, "
            "efficientnet_lite2 and timm:NAME, such as timm:convnext_tiny",
        ),
        ("stage2", ["--encoder.name", "timm:"], "config: stage2.encoder.name: timm: is unknown"),
        ("stage2", ["--lr", "x"], "stage2: Error parsing --lr: could not convert"),
        ("stage2", ["--precision", "fp64"], "stage2: invalid choice 'fp64'"),
        ("stage2", ["--epoch", "1"], "stage2: no flag --epoch; did you mean --epochs?; see a2s"),
        ("stage2", ["--parity.flp=once"], "stage2: no flag --parity.flp; did you mean --parity.f"),
        ("stage2", ["--flip", "once"], "stage2: no flag --flip; did you mean --parity.flip?"),
        # Also where a flag that is needed is missing.
        ("predict", ["x.jpg", "--cutot"], "predict: no flag --cutot; did you mean --cutout?"),
        ("predict", ["x.jpg", "--qqqqq"], "predict: no flag --qqqqq; see a2s predict --help"),
        ("stage2", ["--parity.flip", "twice"], "stage2: invalid choice 'twice'"),
        ("hma", [], "hma: Missing from a2s hma: --run PATH"),
        ("shard", [], "config: shard.images: give at least one"),
    ],
)
def test_wrong_flags_are_one_line(command: str, flags: list[str], message: str) -> None:
    paths = {
        "predict": [],
        "hma": PATHS[:4],
        "shard": PATHS[4:],
        "run": PATHS[4:],
        "stage2": PATHS,
    }.get(command, ["--data", "d", "--out", "o", "--model", "m"])
    with pytest.raises(ConfigError) as caught:
        parse(command, [*flags, *paths])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_only_one_rank_complains_about_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as caught:
        parse("stage2", [*PATHS, "--image-size", "100"])
    assert (caught.value.code, capsys.readouterr().err) == (2, "")


def shown(capsys: pytest.CaptureFixture[str], command: str, flag: str) -> str:
    """What `a2s COMMAND --help` or `--help-all` prints."""
    with pytest.raises(SystemExit) as caught:
        parse(command, [flag])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_a_signal_while_flags_are_parsed_is_no_wrong_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler of SIGTERM leaves with 143, wherever that is."""

    def interrupted(*ignored: object, **named: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr("tyro.cli", interrupted)
    with pytest.raises(SystemExit) as stop:
        parse("shard", ["x", "--out", "y"])
    assert stop.value.code == 143


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_all_explains_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    def explained(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{prefix}{name} has no help text"
            assert "\n" not in field.description
            nested = field.annotation
            if isinstance(nested, type) and issubclass(nested, BaseModel):
                explained(nested, f"{prefix}{name}.")
                continue
            # A name of its own for the flag, where the field's is taken.
            flag = next((mark.name for mark in field.metadata if getattr(mark, "name", None)), name)
            flag = f"{prefix}{flag}".replace("_", "-")
            assert f"--{flag}" in text or Positional[int].__metadata__[0] in field.metadata

    text = shown(capsys, command, "--help-all")
    explained(COMMANDS[command].settings_class(), "")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_hides_parity_and_sections(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    short, whole = shown(capsys, command, "--help"), shown(capsys, command, "--help-all")
    assert "--parity" not in short
    is_short = "--parity." in whole or command in ("run", "ablate")
    last = f"a2s {command} --help-all shows every setting."
    assert (short != whole) == (short.splitlines()[-1] == last) == is_short
    assert shown(capsys, command, "-h") == short
    if command in ("run", "ablate"):
        sections = re.findall(r"--(\w+)\.SETTING VALUE", short)
        called = COMMANDS[command].settings_class().model_fields.keys() & COMMANDS.keys()
        assert set(sections) == called
        assert "--stage1.parity.boundary" in whole


def test_every_command_has_its_settings_and_its_module() -> None:
    for name, command in COMMANDS.items():
        assert issubclass(command.settings_class(), BaseModel)
        assert importlib.util.find_spec(f"a2s.commands.{command.module}"), name
    files = {file.stem for file in (REPO / "a2s" / "commands").glob("*.py")} - {"__init__"}
    assert files == {command.module for command in COMMANDS.values()}


def test_settings_are_frozen() -> None:
    config: Stage2Config = parse("stage2", PATHS)
    with pytest.raises(ValueError, match="frozen"):
        config.lr = 1.0  # type: ignore[misc]


def test_the_same_folder_is_the_same_setting_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = (str(tmp_path / "photos"), "s3://bucket/a.tar")
    for text in ("photos", "photos/", str(tmp_path / "photos")):
        config = parse("shard", [text, "s3://bucket/a.tar", "--out", "o"])
        assert config.images == wanted


def test_the_same_weights_file_is_the_same_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    for text, wanted in (
        ("w.safetensors", str(tmp_path / "w.safetensors")),
        (str(tmp_path / "w.safetensors"), str(tmp_path / "w.safetensors")),
        ("resnet50/moco_v2_800ep", "resnet50/moco_v2_800ep"),
    ):
        config = parse("stage2", [*PATHS, "--encoder.weights", text])
        assert config.encoder.weights == wanted


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("shard", "--out"),
        ("shard", "--masks"),
        ("stage1", "--data"),
        ("label", "--model"),
        ("predict", "--out"),
        ("evaluate", "--truth"),
        ("run", "--test"),
    ],
)
@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://b", "https://host/x"])
def test_a_path_stands_for_a_url(command: str, flag: str, url: str) -> None:
    config = parse(command, [*_required(command, flag), flag, url])
    assert url_of(getattr(config, flag[2:].replace("-", "_"))) == url


@pytest.mark.parametrize("url", ["ftp://host/x", "hdfs://x/y", "s3://b/../x"])
def test_another_url_is_no_local_path(url: str) -> None:
    """As a path it would be a local folder `ftp:`, and the job would end well."""
    with pytest.raises(ConfigError, match=r"is a URL; give a local path, or|is no address of"):
        parse("label", ["--data", "x", "--out", url])


def test_a_file_url_is_a_local_path() -> None:
    config = parse("label", ["--data", "file:///data/x", "--out", "file:///out"])
    assert (config.data, config.out) == (Path("/data/x"), Path("/out"))


def _required(command: str, flag: str) -> list[str]:
    """Values of all settings that a command needs, but for one."""
    model = COMMANDS[command].settings_class()
    given: list[str] = []
    for name, field in model.model_fields.items():
        if field.is_required() and f"--{name}" != flag:
            positional = Positional in field.metadata or name == "images"
            given += ["x"] if positional else [f"--{name}", "x"]
    return given


def test_paths_that_only_look_like_urls_are_paths() -> None:
    config = parse("stage1", ["--data", "a:b/c", "--out", "c:/x"])
    assert (str(config.data), str(config.out)) == ("a:b/c", "c:/x")


def test_a_path_that_is_not_utf8_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.fsdecode(b"d\xff")
    folder.mkdir()
    for command, *flags in (("shard", str(folder)), ("predict", "x", "--model", f"{folder}/m")):
        with pytest.raises(ConfigError, match=r"d\\xff.* is not UTF-8; rename it"):
            parse(command, [*flags, "--out", "o"])
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError, match=r"d\\xff is not UTF-8"):
        parse("shard", ["x.jpg", "--out", "o"])


def test_a_settings_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    file = _yaml(tmp_path, "\ufeffshard: {shard_size: 3}")
    assert parse("shard", ["--config", file, "x", "--out", "o"]).shard_size == 3
