"""Table III: cost of every training run and label set found below the given folders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from a2s.errors import ConfigError
from a2s.paper import numbers
from a2s.paper.tables.format import NONE, amount, csv_of, page
from a2s.paper.tables.hours import training_sec
from a2s.paper.tables.results import num_parameters, read_log, read_settings, write_if_new
from a2s.paper.tables.rows import Material, Row
from a2s.parallel.progress import say
from a2s.storage import run_folder
from a2s.storage.checkpoints import last_commit
from a2s.storage.parsing import first_problem

COLUMNS = {
    "run": "run",
    "command": "command",
    "encoder": "encoder",
    "supervision": "supervision",
    "image_size": "input, px",
    "parameters_m": "parameters, M",
    "epochs": "epochs",
    "hours": "hours",
}
TRAINING = ("stage1", "stage2")


def write_tab3(material: Material, rows: Sequence[Row]) -> str:
    """Write tab3.md and tab3.csv; return the first."""
    found = [entry for root in material.runs for entry in find_runs(root)]
    lines = [[_shown(entry.get(key)) for key in COLUMNS] for entry in (*found, *numbers.TABLE_3)]
    header = [[*COLUMNS.values()], ["---"] * len(COLUMNS)]
    text = page("Table III: runs and what they cost", [*header, *lines], numbers.NOTES["tab3"])
    write_if_new(material.out / "tab3.md", text)
    cells = [[entry.get(key, "") for key in COLUMNS] for entry in (*found, *numbers.TABLE_3)]
    write_if_new(material.out / "tab3.csv", csv_of([*COLUMNS], cells))
    return text


def find_runs(root: Path) -> Iterator[dict[str, Any]]:
    """Find runs of stage 1 and 2 and label sets below a folder, in order of their paths."""
    for folder, subfolders, names in os.walk(root):
        subfolders.sort()
        if "config.yaml" not in names:
            continue
        run = Path(folder)
        name = (Path(root.resolve().name) / run.relative_to(root)).as_posix()
        try:
            command = (run_folder.recorded_settings(run) or {}).get("command")
            if command in TRAINING:
                settings = _Settings.model_validate(read_settings(run, str(command)))
                yield {"run": name, "command": command, **_training(run, settings)}
        except (ConfigError, ValidationError) as error:
            why = first_problem(error) if isinstance(error, ValidationError) else str(error)
            say(f"ablate: {run} is left out: its settings cannot be read ({why})")
            continue
        if command == "label":
            seconds = sum(
                r.get("wall_sec", 0) for r in read_log(run) if r.get("event") == "labelled"
            )
            yield {"run": name, "command": "label", "hours": seconds / 3600}
        if command in (*TRAINING, "label"):
            subfolders.clear()


class _Encoder(BaseModel):
    name: str
    weights: str


class _Settings(BaseModel):
    """What the table shows of a training run's settings."""

    encoder: _Encoder
    image_size: int
    batch_size: int
    epochs: int


def _training(run: Path, settings: _Settings) -> dict[str, Any]:
    commit, count = last_commit(run), num_parameters(run)
    done = commit.state["epoch"] if commit else 0
    seconds = training_sec(read_log(run), batch_size=settings.batch_size)
    return {
        "encoder": settings.encoder.name,
        "supervision": supervision(settings.encoder.weights),
        "image_size": settings.image_size,
        "parameters_m": None if count is None else count / 1e6,
        "epochs": f"{done} of {settings.epochs}",
        "hours": seconds / 3600,
    }


def supervision(weights: str) -> str:
    """Guess the supervision of the pretrained encoder from the name of its weights."""
    name = Path(weights).name if Path(weights).is_absolute() else weights
    known = {
        "none": "none (untrained)",
        "moco": "none (MoCo)",
        "imagenet": "image labels (ImageNet)",
    }
    found = [text for word, text in known.items() if word in name.lower()]
    return found[0] if found else f"as {name} was"


def _shown(value: object) -> str:
    if value is None:
        return NONE
    return amount(value) if isinstance(value, float) else str(value)
