"""Links, commands, flags and files that the documents name must exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import (
    DOCUMENTS,
    ROOM_READMES,
    a2s_arguments,
    anchors,
    blocks,
    code_spans,
    links,
    name_of,
)
from layers import ROOMS
from pydantic import BaseModel
from repository import REPO

from a2s.config.parse import parse
from a2s.config.registry import COMMANDS

# What a word in backticks must begin with to be meant as a path of the repository.
FOLDERS = ("a2s", "benchmarks", "configs", "docker", "docs", "examples", "launch", "tests")
PATH = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|md|yaml|sh|sbatch|json|toml|txt|in)|(?:[\w.-]+/)+")
PLACEHOLDER = "NAME"
# Flags of other programs, and those that are no settings.
OTHER_FLAGS = {
    *(
        "--config",
        "--help",
        "--help-all",
        "--quiet",
        "--takeover",
        "--version",
        "--json",
        "--run",
        "--no-images",
    ),
    *("--multi_gpu", "--cpu", "--num_processes", "--shm-size", "--nodes", "--gpus-per-node"),
    "--array",
}
# Pages that name paths of a2s in backticks, from the repository's root or the room's.
PAGES_WITH_PATHS = [
    *ROOM_READMES,
    *(REPO / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "docs/design.md")),
]
NOT_IN_THE_REPOSITORY = {
    *("base/encoder/resnet.py", "methods/mnet/model.py", "methods/cornet/model.py"),
    *("test.py", "deploy.py"),  # the authors' program
    *("config.yaml", "environment.json", "state.json", "labels/", "rectified/", "shared/"),
    *(
        "checkpoints/",
        "commits/",
        "averages/",
        "metrics.json",
        "written.txt",
        "export.json",
    ),  # what commands write
}


def commands_of_documents():
    for document in DOCUMENTS:
        text = document.read_text("utf-8")
        # What errors say is no command line.
        spans = [] if document.name == "errors.md" else code_spans(text)
        lines = [*blocks(text, "sh"), *(span for span in spans if "--out" in span)]
        for command, arguments in a2s_arguments("\n".join(lines), COMMANDS):
            name = f"{name_of(document)}: {' '.join([command, *arguments])}"
            yield pytest.param(document, command, arguments, id=name)


def flags_of(model: type[BaseModel], prefix: str = "--") -> set[str]:
    flags = set()
    for name, field in model.model_fields.items():
        flag, nested = f"{prefix}{name.replace('_', '-')}", field.annotation
        is_section = isinstance(nested, type) and issubclass(nested, BaseModel)
        flags |= flags_of(nested, f"{flag}.") if is_section else {flag}
    return flags


@pytest.mark.parametrize(("document", "command", "arguments"), [*commands_of_documents()])
def test_commands_parse(document, command, arguments, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPO / "configs")
    for settings in blocks(document.read_text("utf-8"), "yaml"):
        Path("my.yaml").write_text(settings, encoding="utf-8")
    config = parse(command, arguments)
    assert isinstance(config, COMMANDS[command].settings_class())
    if "my.yaml" in arguments:
        assert config.lr == 0.002
        assert config.encoder.name == "mobilenet_v2"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_flags_exist(document: Path) -> None:
    models = [command.settings_class() for command in COMMANDS.values()]
    known = OTHER_FLAGS.union(*map(flags_of, models))
    spans = [span for span in code_spans(document.read_text("utf-8")) if "…" not in span]
    # What follows another program's name is its own affair.
    spans = [
        span for span in spans if not re.match(r"(pytest|pip|uv|docker|git|benchmarks/)\b", span)
    ]
    named = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][\w.-]*", span)}
    assert not named - known


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for path, anchor in links(document.read_text("utf-8")):
        target = (document.parent / path).resolve() if path else document
        # A link to a folder shows its README.
        page = target / "README.md" if target.is_dir() else target
        if not target.exists() or (anchor and anchor not in anchors(page.read_text("utf-8"))):
            broken.append(f"{path}#{anchor}" if anchor else path)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_named_files_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    named = set(re.findall(rf"\b((?:{'|'.join(FOLDERS)})/[\w/.-]+\.\w+)", text))
    named -= {path for path in named if path.startswith("docs/") and document.parent.name == "docs"}
    missing = [
        path for path in sorted(named) if not (REPO / path).is_file() and PLACEHOLDER not in path
    ]
    assert not missing


@pytest.mark.parametrize("document", PAGES_WITH_PATHS, ids=name_of)
def test_paths_in_backticks_exist(document: Path) -> None:
    room = document.parent if document in ROOM_READMES else REPO / "a2s"
    bases = [REPO, REPO / "a2s", room, *room.glob("*/")]
    spans = {span for span in code_spans(document.read_text("utf-8")) if PATH.fullmatch(span)}
    missing = [
        span
        for span in sorted(spans - NOT_IN_THE_REPOSITORY)
        if PLACEHOLDER not in span and not any((base / span).exists() for base in bases)
    ]
    assert not missing


def test_every_room_has_a_short_readme() -> None:
    rooms = {room for room in ROOMS if (REPO / "a2s" / room).is_dir()}
    described = {document.parent.name: document for document in ROOM_READMES}
    assert rooms <= described.keys()
    for document in ROOM_READMES:
        lines = document.read_text("utf-8").splitlines()
        assert 5 <= len(lines) <= 15, name_of(document)


def test_a_readme_allows_what_the_layers_allow() -> None:
    for room in ROOMS:
        document = REPO / "a2s" / room / "README.md"
        if not document.is_file() or room == "commands":  # which says "every room"
            continue
        text = document.read_text("utf-8").replace("\n  ", " ")
        (allowed,) = re.findall(r"\*\*May import:\*\* ([\w, ]+)", text)
        assert set(allowed.split(", ")) == ROOMS[room], room


def test_the_table_of_rooms_is_that_of_the_layers() -> None:
    text = (REPO / "ARCHITECTURE.md").read_text("utf-8")
    table = text.partition("## Rooms")[2].partition("## Formats")[0]
    named = re.findall(r"^\| (?:\[`(\w+)/`\]|`(\w+)\.py`)", table, re.MULTILINE)
    rooms = {folder or file for folder, file in named}
    assert rooms | {"errors", "__main__"} == set(ROOMS)


def test_every_page_is_in_the_index() -> None:
    index = (REPO / "docs" / "README.md").read_text("utf-8")
    for page in DOCUMENTS:
        if page.is_relative_to(REPO / "docs") and page.name != "README.md":
            name = page.relative_to(REPO / "docs")
            assert f"({name})" in index, name


def test_every_result_is_linked_from_the_page_of_numbers() -> None:
    page = (REPO / "docs" / "benchmarks.md").read_text("utf-8")
    results = sorted((REPO / "benchmarks" / "results").iterdir())
    assert results
    assert not [path.name for path in results if f"results/{path.name})" not in page]
