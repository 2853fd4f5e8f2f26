"""Code blocks of documents, and how to run them at a small size in a folder of drawn scenes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from a2s.__main__ import run as run_a2s

# A comment before a block that a Git host does not show.
_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<why>[^\n]+) -->\n)?^(?P<indent> *)```(?P<language>sh|python)\n"
    r"(?P<body>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
# Programs of other people, what installs or takes minutes, and checks of the machine.
NOT_RUN = ("pip ", "uv ", "make ", "a2s doctor")
# So that each command takes seconds, and needs no download.
_TINY_TRAINING = [
    *("--image-size", "64", "--epochs", "1", "--loader-workers", "0"),
    *("--batch-size", "4", "--min-quality", "0"),
]
_ENCODER = ["--encoder.name", "efficientnet_lite2", "--encoder.weights", "bundled"]
_SMALL = {
    "shard": ["--workers", "0"],
    "label": ["--workers", "0", "--min-quality", "0"],
    "predict": ["--workers", "0"],
    "evaluate": ["--workers", "0"],
    "estimate": ["--workers", "0", "--sample", "2"],
    "stage1": [*_TINY_TRAINING[:-2], *_ENCODER, "--min-agreement", "0", "--fusion-stride", "8"],
    "stage2": _TINY_TRAINING,
    "run": [
        *("--workers", "0", "--processes", "1"),
        *(f"--stage2.{word[2:]}" if word[:2] == "--" else word for word in _TINY_TRAINING),
    ],
}


class Block(NamedTuple):
    """One block of a document."""

    language: str
    body: str
    why_not: str
    """Why it is not run; empty if it is."""


def blocks_of(document: Path) -> list[Block]:
    """All blocks of shell and Python, in their order, without the indent of a list."""
    found = []
    for match in _BLOCK.finditer(document.read_text("utf-8")):
        lines = match["body"].splitlines()
        body = "\n".join(line.removeprefix(match["indent"]) for line in lines)
        found.append(Block(match["language"], body, match["why"] or ""))
    return found


def run_block(block: Block, names: dict[str, object]) -> None:
    """Run a block in the current folder; `names` are those of the document's Python."""
    if block.language == "python":
        exec(compile(block.body, "block of a document", "exec"), names)
        return
    for line in _lines(block.body):
        if line.startswith(NOT_RUN):
            continue
        words = _without_slurm(shlex.split(line, comments=True))
        if words and words[0] == "a2s":
            code = run_a2s(_small(words[1:]))
            assert code == 0, f"{line}: exit code {code}"
        else:
            subprocess.run(["bash", "-c", line], check=True, timeout=60)


def _lines(body: str) -> Iterator[str]:
    """Command lines; continued ones are one."""
    for line in body.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def _without_slurm(words: list[str]) -> list[str]:
    """The command that a SLURM script calls, as if it ran here."""
    for number, word in enumerate(words):
        if word.endswith("train.sbatch"):
            return ["a2s", *words[number + 1 :]]
        if word.endswith("label.sbatch"):
            return ["a2s", "label", *words[number + 1 :]]
    return words


def _small(words: list[str]) -> list[str]:
    """The words of a command with flags of a small size in place of its own."""
    command, *rest = words
    small = _SMALL.get(command, [])
    replaced = {flag for flag in small if flag.startswith("--")}
    if command == "stage2" and "--init" not in rest:
        small = [*small, *_ENCODER]
        replaced |= {"--encoder.name", "--encoder.weights"}
    kept: list[str] = []
    skip = False
    for word in rest:
        if skip:
            skip = False
        elif word in replaced:
            skip = True
        else:
            kept.append(word)
    return [command, *kept, *small]
