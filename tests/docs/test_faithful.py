"""docs/faithful.md: every row is there, its settings and tests exist, the presets load."""

from __future__ import annotations

import ast
import re

import pytest
import yaml
from pydantic import BaseModel
from repository import REPO

from a2s.config.parse import parse
from a2s.config.registry import COMMANDS

NUM_ROWS = 39
PRESETS = ("paper", "official")
FLAGS = {
    "run": ["images", "--out", "o"],
    "stage1": ["--data", "d", "--out", "o"],
    "label": ["--model", "m", "--data", "d", "--out", "o"],
    "stage2": ["--data", "d", "--labels", "l", "--out", "o"],
    "evaluate": ["--pred", "p", "--truth", "t", "--out", "o"],
}


def rows() -> list[list[str]]:
    """Cells of the table's rows."""
    text = (REPO / "docs" / "faithful.md").read_text("utf-8")
    lines = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def preset(name: str, command: str) -> BaseModel:
    file = str(REPO / "configs" / f"{name}.yaml")
    config: BaseModel = parse(command, ["--config", file, *FLAGS[command]])
    return config


def value(config: BaseModel, path: str) -> object:
    found: object = config
    for name in path.split("."):
        found = getattr(found, name)
    return found


def field_exists(path: str) -> bool:
    command, *names = path.split(".")
    if command not in COMMANDS:
        return False
    model: type[BaseModel] | None = COMMANDS[command].settings_class()
    for name in names:
        if model is None or name not in model.model_fields:
            return False
        nested = model.model_fields[name].annotation
        model = nested if isinstance(nested, type) and issubclass(nested, BaseModel) else None
    return bool(names)


def leaves(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, held in values.items():
        path = f"{prefix}{name}"
        flat |= leaves(held, f"{path}.") if isinstance(held, dict) else {path: held}
    return flat


def test_every_row_is_there_and_says_something() -> None:
    assert [row[0] for row in rows()] == [str(number) for number in range(1, NUM_ROWS + 1)]
    for row in rows():
        assert len(row) == 6, row[0]
        assert all(row), f"row {row[0]} has an empty cell"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_settings_and_tests_of_a_row_exist(row: list[str]) -> None:
    *_, settings, proofs = row
    if settings != "none":
        for path in re.findall(r"`([^`]+)`", settings):
            assert field_exists(path), f"{path} is no setting"
    named = re.findall(r"`([^`]+)`", proofs)
    assert named
    for proof in named:
        file, name = proof.split("::")
        tree = ast.parse((REPO / "tests" / file).read_text("utf-8"))
        found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in found, f"{proof} does not exist"
        assert name.startswith("test_")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_for_every_command(name: str) -> None:
    text = (REPO / "configs" / f"{name}.yaml").read_text("utf-8")
    written = leaves(yaml.safe_load(text))
    for path, expected in written.items():
        command, _, setting = path.partition(".")
        found = value(preset(name, command), setting)
        assert (list(found) if isinstance(found, tuple) else found) == expected, path
        if command in type(preset(name, "run")).model_fields:
            assert value(preset(name, "run"), path) == found, path


def test_what_a_preset_sets_is_in_the_table() -> None:
    named = {path for row in rows() for path in re.findall(r"`([^`]+)`", row[4])}
    # The backbone is the paper's, not one of the rows; the cache's rounding is ours alone.
    beside = {f"{stage}.encoder.name" for stage in ("stage1", "stage2")} | {"stage1.cache_dtype"}
    for name in PRESETS:
        written = leaves(yaml.safe_load((REPO / "configs" / f"{name}.yaml").read_text("utf-8")))
        assert not written.keys() - named - beside, name


def test_where_the_presets_disagree() -> None:
    """Everything that differs between them, so that nothing changes unseen."""
    differing = {}
    for command in ("stage1", "label", "stage2"):
        paper, official = (leaves(preset(name, command).model_dump()) for name in PRESETS)
        differing |= {
            f"{command}.{path}": (paper[path], official[path])
            for path in paper
            if paper[path] != official[path]
        }
    assert differing == {
        "stage1.parity.resize_filter": ("bilinear", "bicubic"),
        "stage1.parity.encoder_mode": ("frozen", "batch_statistics"),
        "stage1.map_weights": ((1, 1, 1, 1), (1, 0.1, 0.3, 0.5)),
        "stage1.fusion_stride": (8, 2),
        "stage1.parity.e5_scale": (False, True),
        "stage1.parity.sign_tie": (1, 0),
        "stage1.parity.schedule": ("paper", "official"),
        "stage1.milestones": ((10, 16), (11, 15)),
        "label.parity.network_size": ("trained", "own"),
        "label.parity.crf_input": ("soft", "hard"),
        "stage2.parity.resize_filter": ("bilinear", "bicubic"),
        "stage2.parity.schedule": ("paper", "official"),
        "stage2.milestones": ((15, 20), (14, 19)),
        "stage2.encoder_lr_scale": (1, 0.1),
        "stage2.binarise": (False, True),
        "stage2.parity.flip": ("epoch", "once"),
    }
