"""The documents promise commands, flags and files; all of them must exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from repository import REPO

from a2s.__main__ import COMMANDS
from a2s.config.parse import MODELS, parse

DOCUMENTS = ["README.md", "launch/README.md", "ARCHITECTURE.md"]
LAUNCHERS = [
    *sorted(REPO.glob("launch/**/*.sh")),
    *sorted(REPO.glob("launch/**/*.sbatch")),
    *sorted(REPO.glob("configs/**/*.yaml")),
]


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def a2s_arguments(text):
    """What follows `a2s`, `-m a2s` or a launcher on a command line, as the program would see it."""
    pattern = re.compile(rf"(?:\ba2s|local\.sh|train\.sbatch)\s+({'|'.join(COMMANDS)})\b([^`#|]*)")
    for line in text.replace("\\\n", " ").splitlines():
        for command, rest in pattern.findall(line):
            if "…" not in rest and "--" in rest:
                yield command, shlex.split(rest)


def readme_lines():
    shell = "\n".join(blocks((REPO / "README.md").read_text("utf-8"), "sh"))
    return [
        pytest.param(*found, id=" ".join([found[0], *found[1]])) for found in a2s_arguments(shell)
    ]


@pytest.mark.parametrize(("command", "arguments"), readme_lines())
def test_readme_commands_parse(command, arguments, tmp_path, monkeypatch):
    settings = blocks((REPO / "README.md").read_text("utf-8"), "yaml")[0]
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(settings, encoding="utf-8")
    config = parse(command, arguments)
    assert isinstance(config, MODELS[command])
    if "my.yaml" in arguments:
        assert config.lr == 0.002
        assert config.encoder.name == "mobilenet_v2"


def test_every_command_is_in_the_readme():
    shown = {param.values[0] for param in readme_lines()}
    assert shown | {"doctor"} == set(COMMANDS)


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_commands_in_launchers_and_configurations_parse(path):
    comments = [
        line.lstrip("# ") for line in path.read_text("utf-8").splitlines() if line[:1] == "#"
    ]
    # Continued lines of a comment belong together.
    text = re.sub(r"\\\n\s*", " ", "\n".join(comments))
    for command, arguments in a2s_arguments(text):
        assert isinstance(parse(command, arguments), MODELS[command])


@pytest.mark.parametrize("path", sorted(REPO.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_configurations_hold_known_settings(path):
    sections = yaml.safe_load(path.read_text("utf-8"))
    assert sections
    for command in sections:
        required = {
            "stage1": ["--data", "d", "--out", "o"],
            "stage2": ["--data", "d", "--labels", "l", "--out", "o"],
            "run": ["images", "--out", "o"],
        }
        if command in required:
            parse(command, ["--config", str(path), *required[command]])


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    document = REPO / name
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8"))
    local = [link for link in links if not link.startswith(("http:", "https:"))]
    missing = [link for link in local if not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", DOCUMENTS)
def test_named_files_exist(name):
    text = (REPO / name).read_text("utf-8")
    named = set(re.findall(r"\b((?:launch|configs|docker|a2s|tests)/[\w/]+\.\w+)", text))
    missing = [path for path in sorted(named) if not (REPO / path).is_file()]
    assert not missing


def test_make_targets_exist():
    makefile = (REPO / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    named = set()
    for name in ["README.md", "ARCHITECTURE.md", ".ci/run"]:
        named |= set(
            re.findall(r"(?:^|`)make ([a-z]+)", (REPO / name).read_text("utf-8"), re.MULTILINE)
        )
    assert {"demo", "test", "check", "setup"} <= named
    assert named <= targets
