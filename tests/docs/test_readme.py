"""README.md, the Makefile, the hooks, and the commands in launchers and configurations."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
import yaml
from documents import DOCUMENTS, a2s_arguments, code_spans
from repository import REPO

from a2s import __version__
from a2s.config.parse import parse
from a2s.config.registry import COMMANDS

MAX_README_LINES = 200
LAUNCHERS = [
    *sorted(REPO.glob("launch/**/*.sh")),
    *sorted(REPO.glob("launch/**/*.sbatch")),
    *sorted(REPO.glob("configs/**/*.yaml")),
]


def test_readme_is_short() -> None:
    lines = (REPO / "README.md").read_text("utf-8").splitlines()
    assert len(lines) < MAX_README_LINES


def test_every_command_is_in_the_readme_with_its_page() -> None:
    text = (REPO / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| \[`a2s ([\w-]+)`\]\(docs/([\w-]+)\.md", text, re.MULTILINE)
    assert sorted(command for command, _ in rows) == sorted(COMMANDS)
    for command, page in rows:
        assert f"a2s {command} " in (REPO / "docs" / f"{page}.md").read_text("utf-8"), command


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_commands_in_launchers_and_configurations_parse(path) -> None:
    comments = [
        line.lstrip("# ") for line in path.read_text("utf-8").splitlines() if line[:1] == "#"
    ]
    # Continued lines of a comment belong together.
    text = re.sub(r"\\\n\s*", " ", "\n".join(comments))
    for command, arguments in a2s_arguments(text, COMMANDS):
        assert isinstance(parse(command, arguments), COMMANDS[command].settings_class())


@pytest.mark.parametrize("path", sorted(REPO.glob("configs/*.yaml")), ids=lambda path: path.name)
def test_configurations_hold_known_settings(path) -> None:
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


def test_the_version_is_that_of_the_changelog() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    changes = (REPO / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changes, re.MULTILINE)
    assert [name for name, _ in headings[:2]] == ["Unreleased", __version__]
    assert [bool(date) for _, date in headings] == [False, *[True] * (len(headings) - 1)]
    assert project["version"] == __version__


def test_make_targets_exist_and_are_listed() -> None:
    makefile = (REPO / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    targets = set(phony.split())
    done = subprocess.run(
        ["make", "help"], cwd=REPO, capture_output=True, text=True, check=True, timeout=60
    )
    assert re.findall(r"^make ([\w-]+) +\S", done.stdout, re.MULTILINE) == phony.split()
    named = set(re.findall(r"^make (\w+)", (REPO / ".ci/run").read_text("utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        spans = code_spans(document.read_text("utf-8"))
        named |= {span.split()[1] for span in spans if re.match(r"make [a-z]", span)}
    assert {"demo", "test", "check", "setup"} <= named
    assert named <= targets


def test_hooks_run_what_make_check_runs() -> None:
    makefile = (REPO / "Makefile").read_text("utf-8")
    recipe = makefile.partition("\ncheck:")[2].partition("\n\n")[0].replace("$(BIN)/", ".venv/bin/")
    hooks = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    assert len(entries) == recipe.count("\n\t")
    for entry in entries:
        words = entry.replace(" --force-exclude", "")
        assert words in recipe, entry
