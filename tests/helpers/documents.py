"""The documents of the repository, and what can be read out of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from repository import REPO

ROOM_READMES = sorted((REPO / "a2s").rglob("README.md"))
DOCUMENTS = [
    *sorted(REPO.glob("*.md")),
    *sorted((REPO / "docs").glob("*.md")),
    *sorted((REPO / "docs" / "tutorials").glob("*.md")),
    *ROOM_READMES,
    REPO / "examples" / "README.md",
    REPO / "launch" / "README.md",
]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(document: Path) -> str:
    """Path below the repository, for test names and messages."""
    return str(document.relative_to(REPO))


def blocks(text: str, language: str) -> list[str]:
    """Code blocks of a language."""
    return [body for kind, body in _FENCE.findall(text) if kind == language]


def prose(text: str) -> str:
    """Everything but code blocks."""
    return _FENCE.sub("", text)


def code_spans(text: str) -> list[str]:
    """Inline code."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of every link that is not to a web page."""
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", prose(text))
    return [link for link in found if not link[0].startswith(("http:", "https:"))]


def anchors(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", prose(text), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in plain}


def a2s_arguments(text: str, commands: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """What follows `a2s`, `-m a2s` or a launcher on a command line, as the program would see it.

    Lines with an ellipsis, and those that only name a command, are left out.
    """
    names = "|".join(commands)
    pattern = re.compile(rf"(?:\ba2s|local\.sh|train\.sbatch)\s+({names})(?![\w-])([^`#|]*)")
    text = text.replace("label.sbatch ", "train.sbatch label ")
    for line in text.replace("\\\n", " ").splitlines():
        for command, rest in pattern.findall(line):
            if "…" not in rest and "--" in rest:
                yield command, shlex.split(rest)
