"""docs/errors.md: every error message of the code, and what a person does about it.

The messages come from the code; what stands in the second column is written by hand, in the page.
`make pages` keeps it, adds new messages with an empty cell, and drops those that are gone.
"""

from __future__ import annotations

import re

from error_messages import messages

INTRODUCTION = """\
# Error messages

Every line with which a command ends early, its cause and what to do about it; the exit code is 2
(130 after Ctrl-C). The messages come from the code (`make pages`, and a test compares
them). Names in capitals, and `…`, stand for what differs from case to case. Search the page for a
few words of your message.

[troubleshooting.md](troubleshooting.md) explains exit codes, the reasons in `failures.jsonl`, and
situations that have no message of their own. An error with a traceback and exit code 1 is a bug of
a2s: please report it with the command and the traceback.
"""
# Titles, and how the paths below a2s/ begin whose messages a section has; the longest one counts.
SECTIONS = {
    "Command line and settings": ("__main__", "config/"),
    "Output folders": ("storage/",),
    "Images, lists and tars": (
        *("data/inputs", "data/tar_inputs", "data/file_tree", "data/keys", "data/mask_names"),
        *("storage/remote", "storage/listing", "commands/shard"),
    ),
    "Shards": ("data/",),
    "Models and weights": (
        *("models/", "commands/export_model", "commands/import_weights"),
        "commands/export_weights",
    ),
    "Labels": ("labels/", "commands/label", "commands/estimate"),
    "Training": ("training/", "commands/stage"),
    "Prediction and pictures": ("commands/predict", "evaluation/pictures/"),
    "Scores": ("commands/evaluate", "evaluation/"),
    "Python": ("api/",),
    "Processes, Ray and GPUs": ("parallel/", "pipeline"),
    "Status, verify and report": ("commands/", "evaluation/page/"),
    "Tables and figures of the paper": (
        *("paper/", "commands/ablate", "commands/hma", "commands/snapshot"),
        *("evaluation/pictures/snapshot", "evaluation/pictures/cells"),
    ),
}
_ROW = re.compile(r"^\| (`+)(?P<message>.+?)\1 \| (?P<cure>.*?) ?\|$", re.MULTILINE)


def section_of(file: str) -> str:
    """Title of the section with the messages of a file below a2s/."""
    titles = {start: title for title, starts in SECTIONS.items() for start in starts}
    return titles[max((start for start in titles if file.startswith(start)), key=len)]


def cures(page: str) -> dict[str, str]:
    """What the page says about each message."""
    return {row["message"].strip().replace(r"\|", "|"): row["cure"] for row in _ROW.finditer(page)}


def page(known: str) -> str:
    """The whole page, with the cures of the page that is there."""
    written = cures(known)
    rows: dict[str, list[str]] = {title: [] for title in SECTIONS}
    for file, text in messages():
        if not any(text in one for one in rows[section_of(file)]):
            rows[section_of(file)].append(text)
    parts = [INTRODUCTION]
    for title, texts in rows.items():
        table = ["| message | cause and cure |", "|---|---|"]
        table += [f"| {_code(text)} | {written.get(text, '')} |" for text in texts]
        parts.append("\n".join([f"## {title}", "", *table, ""]))
    return "\n".join(parts)


def _code(text: str) -> str:
    text = text.replace("|", r"\|")
    return f"`` {text} ``" if "`" in text else f"`{text}`"
